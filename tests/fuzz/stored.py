"""What is read back and needs torch: configurations, checkpoints, weights, cached features, records, quizzes.

As in `photos`: a target makes an input before its `yield`; what follows is measured and checked.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import zipfile
from collections.abc import Iterator
from contextlib import redirect_stderr, suppress
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import torch
import yaml
from safetensors.torch import load_file, save
from tiny import COLOUR, LEVEL, TinyNet, faces, features, probe

from facekit.answers.card import written
from facekit.answers.model import load
from facekit.commands import evaluate as evaluating
from facekit.commands import train as command
from facekit.commands.cli import main
from facekit.course.quizzes import QuizView, read_quiz
from facekit.data.sets import FeatureSet
from facekit.errors import ConfigError, FacekitError
from facekit.evaluation.groups import PUBLISHED
from facekit.files import sealed_json, sha256_of_file
from facekit.models.backbones import mini
from facekit.models.embedding import embed
from facekit.models.folder import MODEL, WEIGHTS
from facekit.records import recorded
from facekit.training.config import TrainConfig
from facekit.training.loop import fit
from facekit.training.methods import Supervised
from facekit.training.plans import plan

from . import mutate
from .child import Changed

torch.set_num_threads(1)


class Stop(BaseException):
    """Raised where an input has been read and the work would begin."""


def _stop(*_: object, **__: object) -> None:
    raise Stop


# --- configurations -----------------------------------------------------------------------------------------------


@cache
def stored_features() -> Path:
    """A set of embeddings with all splits; in this process's own folder."""
    one, other = features(40), features(20, seed=1, split="validation")
    labels = [part.labels for part in (one, other)]
    return FeatureSet(np.concatenate([one.features, other.features]), pd.concat(labels, ignore_index=True)).save(
        Path("features").absolute()
    )


def config(rng: Random, folder: Path) -> Iterator:
    """A configuration file of `train`, and what the environment says, up to where the training would begin."""
    options = {
        **{"data": str(stored_features()), "out": str(folder / "run"), "tasks": ["side", "level"], "method": "hard"},
        **{"backbone": "none", "plan": "probe", "epochs": 2, "lr": 0.01, "batch_size": 16, "weight_decay": 0.01},
        **{
            "hidden": 0,
            "dropout": 0.0,
            "augment": False,
            "precision": "fp32",
            "seed": 0,
            "device": "cpu",
            "portraits": 4,
        },
        **{"resume": False, "channels_last": False, "compile": False, "parameters": None, "weights": None},
    }
    options = {
        name: value for name, value in options.items() if name in ("data", "out", "backbone") or rng.random() < 0.6
    }
    for _ in range(rng.choice((1, 1, 2, 3))):
        name = rng.choice([name for name in options if name != "data" or rng.random() < 0.3])
        odd = {
            "method": ("soft", "single", "uncertainty", "nothing", "hard "),
            "plan": ("gradual", "scratch", "last_layer", "nothing", ["probe"]),
            "device": ("cuda", "cuda:7", "mps", "gpu", "xpu", "meta", "cpu:1", "CPU", "cuda:-1", "", "hpu", "vulkan"),
            "tasks": (
                "side",
                "side,",
                ",",
                [],
                ["side", "side"],
                "split",
                "colour,level,side",
                ["level", None],
                "file",
            ),
            "parameters": ({"strength": 0.1}, {"strength": -1}, {"x": 1}, {"strength": "a"}, [], {"strength": None}),
            "precision": ("bf16", "fp16", "FP32", 32),
        }
        whole, broken = (
            (0, -1, 1, 3, 10**6, 10**30),
            (0.0, -1.0, 1e-9, 1.0, 1e300, float("nan"), float("inf"), "1e-3", 2),
        )
        usual = odd.get(
            name, {bool: (True,), int: whole, float: broken}.get(type(options[name]), ("", " ", "x", "none"))
        )
        options[name] = rng.choice(usual) if rng.random() < 0.8 else mutate.value(rng)
    if rng.random() < 0.1:
        options = mutate.changed(rng, options)
    text = yaml.safe_dump(options, sort_keys=False, allow_unicode=rng.random() < 0.5)
    if rng.random() < 0.25:
        lines = text.splitlines(keepends=True)
        odd = (
            "\ttab: 1\n",
            "- x\n",
            "a: b: c\n",
            "seed:\n",
            "seed: 1\nseed: 2\n",
            "x: &a [*a]\n",
            "!!python/object:os.x {}\n",
        )
        odd += (
            "%YAML 9\n",
            "? x\n",
            "epochs: 0o17\n",
            "lr: .inf\n",
            "lr: 1e-3\n",
            "tasks: [side\n",
            "--- \n",
            "a: &a [x,x]\n",
        )
        odd += ("".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}' if n else 'x'] * 9)}]\n" for n in range(9)),)
        lines.insert(rng.randint(0, len(lines)), rng.choice(odd))
        text = "".join(lines)
    (folder / "run.yaml").write_bytes(mutate.written(rng, text))
    odd = {"FACEKIT_DEVICE": ("cuda:7", "mps", "gpu", "meta", "xpu", ""), "FACEKIT_PROFILE": ("full", "x", "")}
    odd |= {"FACEKIT_DATA": ("/nowhere", "~", ""), "FACEKIT_PROGRESS": ("x", ""), "FACEKIT_CACHE": ("/dev/null/x", "")}
    chosen = {name: rng.choice(values) for name, values in odd.items() if rng.random() < 0.03}
    yield
    before = dict(os.environ)
    os.environ.update(chosen)
    for name in ("fit", "render_portraits"):
        if hasattr(command, name):
            setattr(command, name, _stop)
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            status = main(["train", "--config", str(folder / "run.yaml")])
    except Stop:
        return "accepted"
    except SystemExit as error:  # how jsonargparse ends
        status = error.code
    finally:
        os.environ.clear()
        os.environ.update(before)
    if status == 2:
        raise ConfigError(said.getvalue()[-400:])
    raise Changed(f"ended with status {status} before the training")


# --- checkpoints --------------------------------------------------------------------------------------------------

EPOCHS = 3


def trained(folder: Path, stop_after: int | None = None, resume: bool = False) -> tuple[dict, list]:
    """Weights and losses after all epochs; stop_after: steps after which it is stopped."""
    model, method = probe(tasks=(COLOUR, LEVEL)), Supervised([COLOUR, LEVEL])
    if stop_after is not None:
        steps, loss = iter(range(stop_after)), method.loss

        def stopping(*arguments: object) -> object:
            if next(steps, None) is None:
                raise KeyboardInterrupt
            return loss(*arguments)

        method.loss = stopping
    recipe = plan("probe", list(model.stages), EPOCHS, 0.05)
    held_out = features(20, seed=1, split="validation")
    result = fit(model, method, features(40), held_out, recipe, TrainConfig(8, device="cpu"), folder, resume)
    return model.state_dict(), result.history.drop(columns="seconds", errors="ignore").to_dict("list")


@cache
def runs() -> tuple[list[Path], dict, list]:
    """Folders of a run that was stopped in its third epoch and of a whole one; weights and losses of the whole one."""
    home = Path("runs").absolute()
    shutil.rmtree(home, ignore_errors=True)
    weights, losses = trained(home / "whole")
    with suppress(KeyboardInterrupt):
        trained(home / "stopped", 11)
    return [home / "stopped", home / "whole"], weights, losses


def entries(rng: Random, data: bytes) -> bytes:
    """A `.pt` file whose pickle, or another entry, was changed; the zip around it is whole."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w") as new:
        victim = rng.choice([*old.namelist(), old.namelist()[0]])
        for name in old.namelist():
            content = old.read(name)
            if name == victim and rng.random() < 0.15:
                continue
            new.writestr(zipfile.ZipInfo(name), mutate.damaged(rng, content) if name == victim else content)
    return made.getvalue()


def header(rng: Random, data: bytes) -> bytes:
    """A safetensors file whose header was changed, its length right or not."""
    size = struct.unpack("<Q", data[:8])[0]
    tree = json.loads(data[8 : 8 + size])
    if rng.random() < 0.5 and isinstance(tree, dict):
        name = rng.choice([name for name in tree if name != "__metadata__"])
        part, others = tree[name], [other for other in tree if other not in (name, "__metadata__")]
        match rng.randrange(6):
            case 0:
                part["dtype"] = rng.choice(("F16", "BF16", "F64", "I32", "I16", "U8", "BOOL", "F8_E4M3", "X", 3))
            case 1:
                part["shape"] = rng.choice((part["shape"][::-1], [*part["shape"], 1], [], [-1], [2**62, 4], [0], ["3"]))
            case 2:
                part["data_offsets"] = rng.choice((part["data_offsets"][::-1], [0, 2**63], [0, 0], [-1, 3], [0]))
            case 3 if others:
                tree[rng.choice(others)] = part
            case 4 if others:
                other = rng.choice(others)
                tree[name], tree[other] = tree[other], tree[name]
            case _:
                tree[f"{rng.choice(('x.', 'module.', ''))}{name}{rng.choice(('', '.x', ' '))}"] = tree.pop(name)
        text = json.dumps(tree).encode()
    else:
        text = mutate.written(rng, json.dumps(mutate.changed(rng, tree)))
    text += b" " * (-len(text) % 8)
    said = len(text) if rng.random() < 0.9 else rng.choice((0, 2**63, 2**40, len(text) + 8, len(text) - 8))
    return struct.pack("<Q", said) + text + data[8 + size :]


def any_weights(rng: Random, data: bytes) -> bytes:
    """A file of weights or of a checkpoint, damaged in its structure or anywhere."""
    if rng.random() < 0.4:
        return mutate.damaged(rng, data)
    return entries(rng, data) if data[:2] == b"PK" else header(rng, data)


def checkpoint(rng: Random, folder: Path) -> Iterator:
    """The folder of a run of which a file was damaged, and the run goes on."""
    folders, weights, losses = runs()
    shutil.copytree(rng.choice(folders), folder / "run")
    files = [path for path in sorted((folder / "run").iterdir()) if "tfevents" not in path.name]
    file = rng.choice([*files, *(path for path in files if path.suffix == ".pt")])
    if rng.random() < 0.08:
        file.unlink()
        if rng.random() < 0.3:
            file.mkdir()
    elif file.suffix == ".pt" and rng.random() < 0.4:
        sealed = torch.load(file, weights_only=True)
        state = torch.load(io.BytesIO(sealed["state"].numpy().tobytes()), weights_only=True)
        whole = {name: value for name, value in state.items() if name != "optimiser"}
        inner = bytearray(pt({**state, **mutated_state(rng, whole)}))
        changed = {**sealed, "state": torch.frombuffer(inner, dtype=torch.uint8)}
        odd = sealed | mutated_state(rng, {"sha256": sealed["sha256"]})
        file.write_bytes(pt(changed if rng.random() < 0.8 else odd))
    elif file.suffix in (".pt", ".safetensors"):
        file.write_bytes(any_weights(rng, file.read_bytes()))
    else:
        file.write_bytes(mutate.damaged(rng, file.read_bytes()))
    yield
    got, seen = trained(folder / "run", resume=True)
    if list(got) != list(weights) or not all(torch.equal(got[name], weights[name]) for name in weights):
        raise Changed(f"other weights at the end of a run whose {file.name} was damaged")
    if seen != losses:
        raise Changed(f"another history of a run whose {file.name} was damaged")
    log = folder / "run" / "log.csv"
    if not log.is_file() or log.read_bytes().count(b"\n") != EPOCHS + 1:
        raise Changed(f"log.csv has not every epoch ({file.name} was damaged)")
    return "accepted"


def mutated_state(rng: Random, state: dict) -> dict:
    """The plain values of a state after an accident."""
    made = mutate.changed(rng, state)
    return made if isinstance(made, dict) else {name: made for name in state}


def pt(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


# --- weights ------------------------------------------------------------------------------------------------------


@cache
def packaged() -> tuple[bytes, dict, dict]:
    """The packaged weights: the file, its tensors, and the network's state once they are read."""
    path = Path(mini.PACKAGED_WEIGHTS)
    return path.read_bytes(), load_file(path), mini.FaceNetMini.from_pretrained().state_dict()


def weights(rng: Random, folder: Path) -> Iterator:
    """facenet-mini's weights in another wrapper or another dtype, damaged, or not weights; or the packaged ones."""
    data, state, expected = packaged()
    key = rng.choice(list(state))
    own, checked, suffix = False, True, rng.choice((".pt", ".safetensors", ".pt", ".pth", ".bin"))
    kind = rng.randrange(12)
    if kind <= 2:  # wrapped in what other programs put around it
        prefix = rng.choice(("", "module.", "_orig_mod.", "net.", "module._orig_mod."))
        state = {prefix + name: value for name, value in state.items()}
        if rng.random() < 0.3:
            state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
        wrapper = rng.choice((None, "state_dict", "model", "model_state_dict", "weights"))
        suffix = ".safetensors" if rng.random() < 0.3 and not wrapper else ".pt"
        made = {"epoch": 3, wrapper: state, "args": {"lr": 0.1}} if wrapper else state
    elif kind <= 5:  # one tensor of another kind
        value = state[key]
        odd = (value.double(), value.to(torch.int64), value.to(torch.bool), value.to(torch.complex64), value.bfloat16())
        odd += (
            value.to_sparse(),
            value.to("meta"),
            value * float("nan"),
            value.reshape(-1)[:1],
            value.flatten(),
            value[None],
        )
        odd += (
            torch.nn.Parameter(value.float()),
            value.float().expand(2, *value.shape)[0],
            value.to(torch.float8_e4m3fn),
        )
        odd += (None, 3, "x", [value], value.numpy(), torch.quantize_per_tensor(value.float(), 0.1, 0, torch.qint8))
        made, suffix, checked = {**state, key: rng.choice(odd)}, ".pt", False
        kept = made[key]
        # What keeps every value exactly must be read as it is or refused; so must whole numbers in place of weights.
        own = (
            isinstance(kept, torch.Tensor)
            and kept.dtype in (torch.int64, torch.bool)
            and state[key].is_floating_point()
        )
    elif kind == 6:
        made, checked = (
            rng.choice(
                (mutate.value(rng), state[key], [state], {}, {3: state[key]}, {key: state[key]}, torch.nn.Linear(2, 2))
            ),
            False,
        )
    else:
        made, checked = None, False
    if made is None:
        file, suffix = (data, ".safetensors") if rng.random() < 0.6 else (pt(state), ".pt")
        file = any_weights(rng, file)
    elif suffix == ".safetensors" and isinstance(made, dict) and kind <= 2:
        file = save({str(name): value.contiguous() for name, value in made.items()}) if made else b""
    else:
        file, suffix = pt(made), ".pt" if suffix == ".safetensors" else suffix
    path = folder / f"weights{suffix if rng.random() < 0.9 else rng.choice(('.safetensors', '.pt', ''))}"
    path.write_bytes(file)
    ours = kind >= 10 and file != data  # in the place of the packaged ones, which are known
    yield
    if ours:
        place, mini.PACKAGED_WEIGHTS = mini.PACKAGED_WEIGHTS, folder / Path(mini.PACKAGED_WEIGHTS).name
        path.rename(mini.PACKAGED_WEIGHTS)
        try:
            got = mini.FaceNetMini.from_pretrained().state_dict()
        finally:
            mini.PACKAGED_WEIGHTS = place
    else:
        got = mini.FaceNetMini.from_pretrained(path).state_dict()
    names = [name for name in expected if not torch.equal(got[name], expected[name])]
    if own or ((checked or ours) and [name for name in names if "num_batches" not in name]):
        raise Changed(f"other values in {', '.join(names[:3]) or key}{' of the packaged weights' if ours else ''}")
    return "accepted"


# --- the folder of a trained model ---------------------------------------------------------------------------------


@cache
def whole_model() -> tuple[Path, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A model's folder, with its outputs and its probabilities."""
    folder = Path("model").absolute()
    shutil.rmtree(folder, ignore_errors=True)
    command.fit = fit  # `config` has put another one there
    options = {"epochs": 2, "hidden": 4, "lr": 0.05, "batch_size": 16, "device": "cpu"}
    command.train(str(stored_features()), folder, ["side", "level"], "soft", backbone="none", **options)
    found = load(folder, "cpu")
    return folder, found.outputs(features(9)), found.probabilities(features(9))


def model(rng: Random, folder: Path) -> Iterator:
    """A model's folder of which a file was damaged, or was edited by somebody who mended the checksums."""
    whole, outputs, probabilities = whole_model()
    (folder / "run").mkdir()
    for name in (MODEL, WEIGHTS):
        shutil.copy(whole / name, folder / "run")
    file, weights = folder / "run" / MODEL, folder / "run" / WEIGHTS
    about, mended = json.loads(file.read_bytes()), rng.random() < 0.6
    if rng.random() < 0.7:
        about = mutate.changed(rng, about)
    elif mended:
        weights.write_bytes(any_weights(rng, weights.read_bytes()))
        about["weights"] |= {"bytes": weights.stat().st_size, "sha256": sha256_of_file(weights)}
    else:
        mutate.struck(rng, rng.choice((file, weights)))
    if mended and isinstance(about, dict):
        file.write_bytes(mutate.written(rng, json.dumps(sealed_json(about))))
    elif isinstance(about, dict) and file.is_file() and about != json.loads(whole.joinpath(MODEL).read_bytes()):
        file.write_bytes(mutate.written(rng, json.dumps(about)))
    yield
    found = load(folder / "run", "cpu")
    repr(found), found.scores.to_string()
    got = found.outputs(features(9)), found.probabilities(features(9))
    if not mended and found.about != json.loads((whole / MODEL).read_bytes()):
        raise Changed("another description of a model that was damaged")
    for one, other in zip(got, (outputs, probabilities), strict=True):
        if not mended and (one.keys() != other.keys() or not all(torch.equal(one[name], other[name]) for name in one)):
            raise Changed("other answers of a model that was damaged")
    return "accepted"


def evaluation(rng: Random, folder: Path) -> Iterator:
    """An evaluation of a model that somebody edited, or on a set with odd labels, groups and words."""
    shutil.copytree(whole_model()[0], folder / "run", ignore=shutil.ignore_patterns("*.pt", "last-*"))
    if rng.random() < 0.5:
        file = folder / "run" / MODEL
        about = mutate.changed(rng, json.loads(file.read_bytes()))
        file.write_bytes(json.dumps(sealed_json(about)).encode() if isinstance(about, dict) else b"[]")
    n = rng.choice((19, 90, 200, 200, 200))
    made = features(n, seed=2, split="test")
    labels, column = made.labels, mutate.text(rng) or "town"
    texts = [mutate.text(rng) or None for _ in range(rng.choice((1, 2, 3, 60)))]
    labels[column] = [rng.choice(texts) for _ in range(n)] if rng.random() < 0.8 else [rng.random() for _ in range(n)]
    for name in ("side", "level"):
        if name in labels and rng.random() < 0.2:
            labels[name] = labels[name].astype(object).where([rng.random() < 0.9 for _ in range(n)])
            labels.loc[labels.index[: rng.choice((0, 1))], name] = mutate.text(rng)
    with suppress(FacekitError, KeyError, ValueError, AttributeError):  # what cannot be stored is not evaluated
        FeatureSet(made.features, labels).save(folder / "set")
    by = [rng.choice((column, column, "colour", "side", mutate.text(rng))) for _ in range(rng.randrange(3))]
    words = {"intended_use": mutate.text(rng), "owner": rng.choice(("", "<!-- /owner -->", "a\n\n# b"))}
    out = folder / "out"
    yield
    try:
        evaluating.evaluate(folder / "run", str(folder / "set"), by, out, device="cpu", **words)
    except FacekitError:
        if out.exists():
            raise Changed("something is left of an evaluation that was refused") from None
        raise
    if sorted(path.name for path in out.iterdir()) != sorted(evaluating.WRITTEN):
        raise Changed("an evaluation left other files than its own")
    scores = pd.read_csv(out / evaluating.SCORES, dtype=str, keep_default_na=False)
    told = scores[scores["value"] != ""]
    if (told["n"].astype(int) < PUBLISHED).any() or (scores.loc[scores["value"] == "", "n"].str.isdigit()).any():
        raise Changed("a score over a few faces")
    card = (out / evaluating.CARD).read_bytes().decode()
    written(card)
    return "accepted"


# --- cached features ----------------------------------------------------------------------------------------------


@cache
def network() -> TinyNet:
    torch.manual_seed(0)
    return TinyNet().eval()


def cached(rng: Random, folder: Path) -> Iterator:
    """Embeddings in the cache of which a file was damaged, asked for again: the same numbers, and no error."""
    home = Path(os.environ["FACEKIT_CACHE"])
    shutil.rmtree(home, ignore_errors=True)
    wanted = np.array(embed(network(), faces(12), device="cpu").features)
    files = [path for path in sorted(home.rglob("*")) if path.is_file()]
    file = rng.choice(files)
    data = file.read_bytes()
    if file.suffix == ".json" and rng.random() < 0.7:
        file.write_bytes(mutate.written(rng, json.dumps(mutate.changed(rng, json.loads(data)))))
    else:
        mutate.struck(rng, file)
    (folder / "damaged").write_bytes(file.read_bytes() if file.is_file() else b"")
    yield
    for _ in range(2):
        if not np.array_equal(embed(network(), faces(12), device="cpu").features, wanted):
            raise Changed(f"other embeddings after {file.name} was damaged")
    return "accepted"


# --- records and quizzes ------------------------------------------------------------------------------------------

RECORD = {
    **{
        "what": "accuracy",
        "data": "rows",
        "command": "python -m facekit record x",
        "seeds": [0, 1],
        "date": "2026-01-01",
    },
    **{"hardware": "one", "versions": {"python": "3.11", "torch": "2.11"}, "git_commit": "abc", "seconds": 1.5},
    "rows": [{"name": "a", "n": 50, "seed": seed, "value": 0.5 + seed / 10} for seed in range(3)],
}
CHOICE = {"text": "Nothing.", "right": True, "why": "It stays `as` it is."}
QUIZ = {
    "questions": [{"question": f"What {n}?", "choices": [CHOICE, {"text": "All.", "why": "No."}]} for n in range(3)]
}


def edited(rng: Random, path: Path, tree: object) -> None:
    """Writes a JSON file by somebody's hand."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tree = mutate.changed(rng, tree) if rng.random() < 0.8 else tree
    text = json.dumps(tree, indent=rng.choice((None, 2)), ensure_ascii=rng.random() < 0.5)
    if rng.random() < 0.1:
        text = rng.choice(
            (text.replace('"', "'"), text.replace(",", ",,", 1), text[:-1] + ",}", text * 2, f"// x\n{text}")
        )
    path.write_bytes(mutate.written(rng, text))


def record(rng: Random, folder: Path) -> Iterator:
    """A recorded result that was edited or damaged."""
    edited(rng, folder / "x.json", RECORD)
    yield
    found = recorded("x", folder)
    found.caption()
    found.rows.to_string()
    return "accepted"


def quiz(rng: Random, folder: Path) -> Iterator:
    """A quiz that was edited or damaged."""
    edited(rng, folder / "03_x" / "quiz.json", QUIZ)
    yield
    found = read_quiz(folder / "03_x" / "quiz.json")
    found.markdown()
    QuizView(found)
    return "accepted"


TARGETS = {target.__name__: target for target in (config, checkpoint, weights, model, evaluation, cached, record, quiz)}
