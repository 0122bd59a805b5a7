"""What is killed: packing, training (on one process, on two, one of two), answers, a study, a download and more.

A work is a function of a folder, which it fills; called again it goes on. The clock that facekit measures with stands
still meanwhile, so that the seconds in its files are the same in every run.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import time
from contextlib import redirect_stdout
from functools import partial
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from tiny import TinyNet, faces, features

from facekit import records
from facekit.answers import predict as predict_module
from facekit.commands import distill as distill_command
from facekit.commands import train as train_command
from facekit.commands.cli import main
from facekit.course import workspace
from facekit.data.portraits import render_portraits
from facekit.data.sets import FaceSet, FeatureSet
from facekit.models import weights

torch.set_num_threads(1)
ROOT = Path(__file__).resolve().parents[2]
SENT = np.random.default_rng(0).bytes(3 * 2**20)


def stand_still() -> None:
    """From here on no second passes for what facekit measures."""
    time.perf_counter = partial(float, 0)


def checked(status: int) -> None:
    """Ends this process where a command did not do its work."""
    if status:
        sys.exit(status)


# --- packing ------------------------------------------------------------------------------------------------------


def photos(home: Path) -> None:
    """1,300 photos with a label table; some are damaged, doubled or not in the table."""
    rng = np.random.default_rng(0)
    (home / "photos").mkdir()
    rows = ["file,town,size"]
    for n in range(1300):
        data = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(data, "PNG")
        content = data.getvalue()[: 200 if n % 97 == 5 else None]
        for name in (f"{n}.png", f"{n}-again.png") if n % 131 == 7 else (f"{n}.png",):
            (home / "photos" / name).write_bytes(content)
            rows += [f"{name},{('Bonn', 'None', '007')[n % 3]},{n}"] if n % 89 else []
    (home / "photos" / "labels.csv").write_text("\n".join(rows) + "\n")


def pack(home: Path, out: Path) -> None:
    checked(main(["pack", str(home / "photos"), str(out / "set"), "--size", "16"]))


# --- training -----------------------------------------------------------------------------------------------------

TRAIN = "--portraits 16 --epochs 2 --batch_size 4 --plan last_layer --tasks gender,skin_tone --resume true"


def train(home: Path, out: Path) -> None:
    checked(main(["train", *TRAIN.split(), "--out", str(out / "run")]))


def train_two(home: Path, out: Path, restarts: int = 0) -> None:
    """The same on two processes, which torchrun starts; this file is what each of them runs."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    start += ["--max-restarts", str(restarts), __file__]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    checked(subprocess.run([*start, *TRAIN.split(), "--out", str(out / "run")], env=environment).returncode)


def short(home: Path) -> None:
    """A run of one pass over the data, to its end."""
    with redirect_stdout(io.StringIO()):
        checked(main(["train", *TRAIN.replace("--epochs 2", "--epochs 1").split(), "--out", str(home / "short")]))


def extend(home: Path, out: Path) -> None:
    """A finished run that goes on for two passes more."""
    if not (out / "run").exists():
        shutil.copytree(home / "short", out / "new", dirs_exist_ok=True)
        (out / "new").rename(out / "run")
    checked(main(["train", *TRAIN.replace("--epochs 2", "--epochs 3").split(), "--out", str(out / "run")]))


# --- answers for photos -------------------------------------------------------------------------------------------


def album(home: Path) -> None:
    """Photos, with a face or without one, or damaged; and a model."""
    (home / "album").mkdir()
    for n, pixels in enumerate(render_portraits(64, size=80, workers=1).images):
        data = io.BytesIO()
        Image.fromarray(pixels.transpose(1, 2, 0) if n % 3 else np.full((60, 60, 3), n, np.uint8)).save(data, "PNG")
        (home / "album" / f"{n}.png").write_bytes(data.getvalue()[: 200 if n % 7 == 5 else None])
    with redirect_stdout(io.StringIO()):
        train_command.train("portraits", home / "model", "gender,age", epochs=1, steps=1, batch_size=4, portraits=16)


def predict(home: Path, out: Path) -> None:
    predict_module.GROUP = 4
    where = ["--out", str(out / "answers.csv"), "--pictures", str(out / "pictures")]
    checked(main(["predict", str(home / "model"), str(home / "album"), *where]))


# --- an evaluation -------------------------------------------------------------------------------------------------


def learnt(home: Path) -> None:
    """A set of embeddings, and the folder of a model that has learnt from it."""
    parts = [features(300), features(60, seed=1, split="validation"), features(20_000, seed=2, split="test")]
    labels = pd.concat([part.labels for part in parts])
    FeatureSet(np.concatenate([part.features for part in parts]), labels).save(home / "set")
    options = "--backbone none --tasks side,level --epochs 2 --device cpu"
    checked(main(["train", "--data", str(home / "set"), "--out", str(home / "run"), *options.split()]))


def evaluate(home: Path, out: Path) -> None:
    options = ["--by", "colour,side", "--out", str(out / "evaluation"), "--owner", "Somebody.", "--device", "cpu"]
    checked(main(["evaluate", str(home / "run"), str(home / "set"), *options]))


# --- distillation -------------------------------------------------------------------------------------------------


class Teacher(TinyNet):
    """A tiny network in FaceNet's place."""

    name = "facenet"

    @classmethod
    def from_pretrained(cls, path: Path | None = None) -> Teacher:
        torch.manual_seed(3)
        return cls().eval()


class Student(TinyNet):
    """A tiny network in the place of facenet-mini."""

    name = "facenet-mini"

    @classmethod
    def from_pretrained(cls, path: Path | None = None) -> Student:
        network = cls()
        network.load_state_dict({name: value.float() for name, value in weights.read_weights(path).items()})
        return network.eval()


def taught(home: Path) -> None:
    """A set of photos with all three splits."""
    parts = [faces(40), faces(8, 1, "validation"), faces(12, 2, "test")]
    labels = pd.concat([part.labels for part in parts])
    FaceSet(np.concatenate([part.images for part in parts]), labels).resized(32).save(home / "taught")


def distill(home: Path, out: Path) -> None:
    distill_command.FaceNet, distill_command.FaceNetMini = Teacher, Student
    options = "--epochs 4 --lr 0.02 --batch_size 8 --precision fp32 --device cpu --blended 20 --resume true"
    checked(main(["distill", str(home / "taught"), "--out", str(out / "run"), *options.split()]))


# --- a study ------------------------------------------------------------------------------------------------------

TOY = """
import numpy as np
import pandas as pd
import time

from facekit.studies.runner import Study, blocks_of, study


def measure(number: int, seed: int) -> pd.DataFrame:
    value = np.random.default_rng(seed).normal(size=(200, 200)) * number
    time.sleep(0.02)
    return pd.DataFrame({"value": np.linalg.svd(value, compute_uv=False)[:3], "n": number, "seed": seed})


@study(photos=False)
def record() -> Study:
    "Records `toy`."
    return Study("toy", what="numbers", data="none", blocks=blocks_of(measure, (), range(1, 6), range(3)))
"""


def toy(home: Path) -> None:
    (home / "toys").mkdir()
    (home / "toys" / "__init__.py").write_text("")
    (home / "toys" / "toy.py").write_text(TOY)


def study(home: Path, out: Path) -> None:
    sys.path.insert(0, str(home))
    records.REFERENCE = out / "reference"
    checked(import_module("toys.toy").record())


# --- a download ---------------------------------------------------------------------------------------------------


class Slow(BaseHTTPRequestHandler):
    """Sends the same bytes to everybody, in small pieces, from where one asks for."""

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(SENT) - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(SENT) - 1}/{len(SENT)}")
        self.end_headers()
        try:
            for at in range(start, len(SENT), 2**16):
                self.wfile.write(SENT[at : at + 2**16])
                time.sleep(0.01)
        except OSError:  # who asked was killed
            pass

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def server(home: Path) -> None:
    """Starts the server as a process of its own, which ends with this one."""
    made = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    (home / "port").write_text(str(made.server_port))
    parent = os.getpid()
    if os.fork() == 0:
        made.timeout = 1
        while os.getppid() == parent:
            made.handle_request()
        os._exit(0)
    made.socket.close()


def download(home: Path, out: Path) -> None:
    url = f"http://127.0.0.1:{(home / 'port').read_text()}/x.pt"
    weights.download(url, out / "weights" / "x.pt", sha256(SENT).hexdigest())


# --- copies of the lessons ----------------------------------------------------------------------------------------


def lessons(home: Path, out: Path) -> None:
    workspace.open_work(out / "work")


# Name to the work, what must be there before, and its share of the kills.
WORKS = {
    "pack": (pack, photos, 30),
    "train": (train, None, 20),
    "train_two": (train_two, None, 10),
    "elastic": (partial(train_two, restarts=2), None, 10),
    "extend": (extend, short, 15),
    "predict": (predict, album, 15),
    "evaluate": (evaluate, learnt, 12),
    "distill": (distill, taught, 15),
    "study": (study, toy, 13),
    "download": (download, server, 12),
    "lessons": (lessons, None, 10),
}

ELASTIC = {"elastic"}  # one of the processes that torchrun started is killed, and torchrun starts all of them anew

if __name__ == "__main__":
    stand_still()
    sys.exit(main(["train", *sys.argv[1:]]))
