"""Weights files: found in order, downloaded whole or not at all, read without running anything from them."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import pickle
import random
import re
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import FileIO
from pathlib import Path
from threading import Thread

import pytest
import torch
from safetensors.torch import save_file

from facekit import settings
from facekit.data.features import model as model_of_features
from facekit.errors import DataError, WeightsError
from facekit.models import weights
from facekit.models.backbones import mini
from facekit.models.backbones.facenet import FaceNet
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.weights import download, find_weights, load_into, read_weights

BODY = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """A file server whose connections break after `cuts.pop(0)` bytes as long as there are cuts left.

    answer: answers every request instead.
    """

    block_on_close = False

    def __init__(self, body: bytes, cuts: list[int], ranges: bool = True, status: int = 200, answer=None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer: Callable[[Handler], None] | None = answer
        self.body, self.cuts, self.ranges, self.status = body, list(cuts), ranges, status
        self.asked: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}/file"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        if self.server.answer:
            with suppress(OSError):  # the other side may go away
                self.server.answer(self)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and self.server.ranges else 0
        if start and start >= len(self.server.body):
            self.send_error(416)
            return
        rest = self.server.body[start:]
        self.send_response(206 if start else self.server.status)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: self.server.cuts.pop(0)] if self.server.cuts else rest)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serve():
    """Starts servers; stops them after the test."""
    running: list[Server] = []

    def start(*args, **kwargs) -> Server:
        running.append(Server(*args, **kwargs))
        Thread(target=running[-1].serve_forever, args=(0.01,), daemon=True).start()
        return running[-1]

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_download_arrives_whole(serve, tmp_path):
    dest = tmp_path / "new" / "file.pt"
    assert download(serve(BODY, []).url, dest, SHA256) == dest
    assert dest.read_bytes() == BODY
    assert list(dest.parent.iterdir()) == [dest]


def test_cut_connections_are_continued_where_they_broke(serve, tmp_path):
    server = serve(BODY, [70_000, 90_000])
    download(server.url, tmp_path / "file", SHA256)
    assert (tmp_path / "file").read_bytes() == BODY
    assert server.asked[0] is None and len(server.asked) == 3
    starts = [int(asked.removeprefix("bytes=").rstrip("-")) for asked in server.asked[1:]]
    assert 0 < starts[0] < starts[1] < len(BODY)


def test_a_later_call_continues(serve, tmp_path):
    server = serve(BODY, [100_000] + [0] * 20)
    with pytest.raises(WeightsError, match="could not be downloaded .* to continue"):
        download(server.url, tmp_path / "file", SHA256)
    assert not (tmp_path / "file").exists() and (tmp_path / "file.partial").exists()
    server = serve(BODY, [])
    download(server.url, tmp_path / "file", SHA256)
    assert server.asked[0] is not None and (tmp_path / "file").read_bytes() == BODY


def test_partial_file_that_is_whole_already(serve, tmp_path):
    (tmp_path / "file.partial").write_bytes(BODY)
    download(serve(BODY, []).url, tmp_path / "file", SHA256)
    assert (tmp_path / "file").read_bytes() == BODY


@pytest.mark.parametrize("rubbish", [b"x" * 1000, b"x" * (len(BODY) + 5)])
def test_partial_file_of_something_else_starts_afresh(serve, tmp_path, rubbish):
    (tmp_path / "file.partial").write_bytes(rubbish)
    download(serve(BODY, []).url, tmp_path / "file", SHA256)
    assert (tmp_path / "file").read_bytes() == BODY


def test_server_without_ranges_sends_all_again(serve, tmp_path):
    download(serve(BODY, [70_000], ranges=False).url, tmp_path / "file", SHA256)
    assert (tmp_path / "file").read_bytes() == BODY


def test_wrong_bytes_leave_nothing(serve, tmp_path):
    with pytest.raises(WeightsError, match="not the expected file"):
        download(serve(BODY[::-1], []).url, tmp_path / "file", SHA256)
    assert list(tmp_path.iterdir()) == []


def test_http_error_names_the_status(serve, tmp_path):
    with pytest.raises(WeightsError, match="404"):
        download(serve(BODY, [], status=404).url, tmp_path / "file", SHA256)
    assert list(tmp_path.iterdir()) == []


def endless(handler: Handler) -> None:
    """No length, no end."""
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(bytes(1 << 16))


def endless_chunks(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        handler.wfile.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")


def promises_too_much(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(10**15))
    handler.end_headers()


def in_circles(handler: Handler) -> None:
    handler.send_response(302)
    handler.send_header("Location", "/file")
    handler.end_headers()


def nowhere(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 302 Found\r\nLocation: http://\xff\xfe/\r\n\r\n")


def silent(handler: Handler) -> None:
    time.sleep(1)


def drips(handler: Handler) -> None:
    """Sends often enough for the connection, and never a whole piece in time."""
    handler.send_response(206 if handler.headers.get("Range") else 200)
    handler.send_header("Content-Length", str(len(BODY)))
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b"x")
        time.sleep(0.02)


def begins_anew(handler: Handler) -> None:
    """Knows no ranges and always breaks off at the same place."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(BODY)))
    handler.end_headers()
    handler.wfile.write(BODY[:100_000])


def no_http(handler: Handler) -> None:
    handler.wfile.write(bytes(1000))


SERVERS = {
    endless: "more than 1,000,000 bytes",
    endless_chunks: "more than 1,000,000 bytes",
    promises_too_much: "more than 1,000,000 bytes",
    in_circles: "without end",
    nowhere: "could not be downloaded",
    silent: "in time",
    drips: "in time",
    begins_anew: "broke off",
    no_http: "no connection",
}


@pytest.mark.parametrize("answer", SERVERS, ids=lambda answer: answer.__name__)
@pytest.mark.parametrize("begun", [0, 100_000])
def test_no_server_keeps_a_download_for_ever_or_fills_the_disk(serve, tmp_path, monkeypatch, answer, begun):
    partial = tmp_path / "file.partial"
    if begun:
        partial.write_bytes(BODY[:begun])
    started = time.monotonic()
    with monkeypatch.context() as patch, pytest.raises(WeightsError, match=SERVERS[answer]):
        patch.setattr(weights, "LARGEST", 1_000_000)
        if answer in (silent, drips):
            patch.setattr(weights, "TIMEOUT", (5, 0.2))
        download(serve(BODY, [], answer=answer).url, tmp_path / "file", SHA256)
    assert time.monotonic() - started < 15
    assert not partial.exists() or 0 < partial.stat().st_size <= 1_000_000
    download(serve(BODY, []).url, tmp_path / "file", SHA256)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_server_that_sends_more_than_it_says(serve, tmp_path):
    def more(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(BODY)))
        handler.end_headers()
        handler.wfile.write(BODY * 2)

    download(serve(BODY, [], answer=more).url, tmp_path / "file", SHA256)
    assert (tmp_path / "file").read_bytes() == BODY


def slowly(handler: Handler) -> None:
    """The rest of the body, over about 0.3 s."""
    start = int((handler.headers.get("Range") or "bytes=0-")[6:-1])
    handler.send_response(206 if start else 200)
    handler.send_header("Content-Length", str(len(BODY) - start))
    handler.end_headers()
    for at in range(start, len(BODY), 8000):
        handler.wfile.write(BODY[at : at + 8000])
        time.sleep(0.01)


def test_several_at_once_download_once(serve, tmp_path):
    server = serve(BODY, [], answer=slowly)
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda _: download(server.url, tmp_path / "file", SHA256), range(4)))
    assert set(found) == {tmp_path / "file"} and len(server.asked) == 1
    assert (tmp_path / "file").read_bytes() == BODY and list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_another_one_waits_and_goes_on_where_the_first_one_failed(serve, tmp_path):
    server = serve(BODY, [100_000] + [0] * 5)
    with ThreadPoolExecutor() as pool:
        running = [pool.submit(download, server.url, tmp_path / "file", SHA256) for _ in range(3)]
        failed = [task for task in running if task.exception()]
    assert len(failed) <= 1 and all(isinstance(task.exception(), WeightsError) for task in failed)
    assert (tmp_path / "file").read_bytes() == BODY and list(tmp_path.iterdir()) == [tmp_path / "file"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a copy of this process")
def test_after_a_kill_at_any_moment_the_next_run_ends_as_any_other(serve, tmp_path):
    server = serve(BODY, [], answer=slowly)
    for delay in (0.0, 0.01, 0.05, 0.1, 0.2, 0.4):
        dest = tmp_path / str(delay) / "file"
        process = multiprocessing.get_context("fork").Process(target=download, args=(server.url, dest, SHA256))
        process.start()
        time.sleep(delay)
        process.kill()
        process.join()
        download(server.url, dest, SHA256)
        assert dest.read_bytes() == BODY and list(dest.parent.iterdir()) == [dest]


def wait_as_link(partial: Path, mine: Path) -> None:
    partial.symlink_to(mine)


def wait_as_second_name(partial: Path, mine: Path) -> None:
    partial.hardlink_to(mine)


def wait_as_pipe(partial: Path, mine: Path) -> None:
    os.mkfifo(partial)


@pytest.mark.skipif(os.name == "nt", reason="needs links and pipes")
@pytest.mark.parametrize("wait", [wait_as_link, wait_as_second_name, wait_as_pipe])
def test_what_waits_under_the_name_of_the_partial_file_is_not_written_to(serve, tmp_path, wait):
    mine = tmp_path / "mine"
    mine.write_bytes(BODY[:1000])
    wait(tmp_path / "file.partial", mine)
    download(serve(BODY, []).url, tmp_path / "file", SHA256)
    assert mine.read_bytes() == BODY[:1000] and not (tmp_path / "file").is_symlink()
    assert (tmp_path / "file").read_bytes() == BODY and not (tmp_path / "file.partial").exists()


@pytest.mark.parametrize("kind", ["file", "folder", "broken link"])
def test_what_is_there_already_stays(serve, tmp_path, kind):
    dest = tmp_path / "file"
    if kind == "file":
        dest.write_bytes(b"mine")
    elif kind == "folder":
        dest.mkdir()
    else:
        dest.symlink_to("nothing")
    with pytest.raises(WeightsError, match="is there already"):
        download(serve(BODY, []).url, dest, SHA256)
    assert list(tmp_path.iterdir()) == [dest]
    assert dest.read_bytes() == b"mine" if kind == "file" else dest.is_dir() == (kind == "folder")


def test_a_full_disk_is_named_and_with_room_it_goes_on(serve, tmp_path, monkeypatch):
    class Full(FileIO):
        def write(self, data) -> int:
            if not (room := 150_000 - self.tell()):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data[:room])

    server = serve(BODY, [])
    with monkeypatch.context() as patch:
        patch.setattr(weights, "FileIO", Full)
        with pytest.raises(WeightsError, match="No space left on device.*Make room"):
            download(server.url, tmp_path / "file", SHA256)
    download(server.url, tmp_path / "file", SHA256)
    assert server.asked == [None, "bytes=150000-"] and (tmp_path / "file").read_bytes() == BODY


def test_offline_says_what_to_get_and_where_to_put_it(serve, monkeypatch):
    server = serve(BODY, [])
    monkeypatch.delenv("FACEKIT_DATA", raising=False)
    monkeypatch.setattr(weights, "OFFICIAL_URL", server.url)
    server.shutdown()
    server.server_close()
    with pytest.raises(WeightsError) as caught:
        FaceNet.from_pretrained()
    text = str(caught.value)
    for part in (server.url, "MIT", "VGGFace2", weights.OFFICIAL_SHA256, str(settings.cache_dir()), "FACEKIT_DATA"):
        assert part in text
    assert caught.value.__suppress_context__


def test_order_explicit_then_data_then_cache_then_download(serve, monkeypatch, tmp_path):
    server = serve(BODY, [])
    monkeypatch.setattr(weights, "OFFICIAL_URL", server.url)
    monkeypatch.setattr(weights, "OFFICIAL_SHA256", SHA256)
    monkeypatch.setenv("FACEKIT_DATA", str(tmp_path))
    kept = settings.cache_dir() / "weights" / weights.OFFICIAL
    assert find_weights() == kept and kept.read_bytes() == BODY
    assert find_weights() == kept and len(server.asked) == 1
    given = tmp_path / "weights" / weights.NAMES[0]
    given.parent.mkdir()
    given.write_bytes(b"anything")
    assert find_weights() == given
    assert find_weights(tmp_path / "mine.pt") == tmp_path / "mine.pt"


def test_damaged_official_file_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("FACEKIT_DATA", str(tmp_path))
    (tmp_path / weights.OFFICIAL).write_bytes(b"half")
    with pytest.raises(WeightsError, match=f"{weights.OFFICIAL} is damaged"):
        find_weights()


@pytest.fixture
def model() -> FaceNetMini:
    torch.manual_seed(0)
    return FaceNetMini()


def half(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """State with float16 weights, each tensor in memory of its own."""
    return {
        k: v.detach().half() if v.is_floating_point() else v.detach().clone() for k, v in model.state_dict().items()
    }


def write(path: Path, state: object) -> Path:
    """A weights file in the form that its name asks for."""
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=path.suffix != ".old")
    return path


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.old"])
def test_reading_gives_float32_without_logits(model, tmp_path, name):
    extra = {"logits.weight": torch.zeros(7, 512), "logits.bias": torch.zeros(7)}
    state = read_weights(write(tmp_path / name, {**half(model), **extra}))
    assert set(state) == set(model.state_dict())
    for key, value in half(model).items():
        assert state[key].dtype == (torch.float32 if value.is_floating_point() else value.dtype)
        assert torch.equal(state[key], value.to(state[key].dtype))


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_loaded_model_equals_the_saved_one(model, tmp_path, name):
    path = write(tmp_path / name, {k: v.clone() for k, v in model.state_dict().items()})
    loaded = FaceNetMini.from_pretrained(path)
    assert not loaded.training
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.old"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_truncated_files(model, tmp_path, name, share):
    path = write(tmp_path / name, half(model))
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(WeightsError, match="damaged"):
        read_weights(path)


def test_missing_file(tmp_path):
    with pytest.raises(WeightsError, match="does not exist"):
        FaceNet.from_pretrained(tmp_path / "none.pt")


def test_wrong_keys_are_named_and_nothing_is_copied(model, tmp_path):
    state = half(model)
    state["linear.weights"] = state.pop("linear.weight")
    other = FaceNetMini()
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(WeightsError, match=r"1 missing: linear\.weight; 1 unknown: linear\.weights"):
        load_into(other, state, tmp_path / "w.pt")
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())


def test_wrong_shapes_are_named(model, tmp_path):
    path = write(tmp_path / "w.safetensors", {**half(model), "linear.weight": torch.zeros(128, 512)})
    with pytest.raises(WeightsError, match=r"linear\.weight \(128, 512\) instead of \(512, 320\)"):
        FaceNetMini.from_pretrained(path)


def test_weights_of_another_network(model, tmp_path):
    path = write(tmp_path / "w.safetensors", half(model))
    with pytest.raises(WeightsError, match="another network than InceptionResnetV1"):
        FaceNet.from_pretrained(path)


ITSELF: dict = {}
ITSELF["model"] = ITSELF


@pytest.mark.parametrize(
    "state",
    [
        [torch.zeros(2)],
        torch.zeros(2),
        {"epoch": 3, "encoder": {"a": torch.zeros(2)}},
        {"model": {"a": torch.zeros(2)}, "state_dict": {"a": torch.ones(2)}},
        {"a": torch.zeros(2), "b": 3},
        {1: torch.zeros(2)},
        {"model": "resnet"},
        ITSELF,
    ],
)
def test_files_that_are_no_state_dict(tmp_path, state):
    with pytest.raises(WeightsError, match="state dict"):
        read_weights(write(tmp_path / "w.pt", state))


class Small(torch.nn.Module):
    """A network with all that wrappers and files of others are about."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.norm = torch.nn.Sequential(torch.nn.BatchNorm2d(4))
        self.model = torch.nn.Linear(4, 2)


def wrapped(state: dict[str, torch.Tensor], rng: random.Random) -> dict:
    """A state dict as somebody has saved it: names with wrappers, in entries, without counters, with class logits."""
    if rng.random() < 0.5:
        state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    if rng.random() < 0.5:
        state = {**state, "logits.weight": torch.zeros(3, 2)}
    if rng.random() < 0.3:  # one part is compiled
        state = {key.replace("norm.", "norm._orig_mod."): value for key, value in state.items()}
    for _ in range(rng.randrange(4)):
        prefix = rng.choice(["module.", "_orig_mod.", "net.", "backbone."])
        state = {prefix + key: value for key, value in state.items()}
    saved: dict = state
    for _ in range(rng.randrange(3)):
        saved = {"epoch": 3, rng.choice(["state_dict", "model", "model_state_dict"]): saved, "args": {"lr": 0.1}}
    return saved


@pytest.mark.parametrize("seed", range(40))
def test_usual_wrappers_are_seen_through(tmp_path, seed):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    one, other = Small(), Small()
    path = write(tmp_path / rng.choice(["w.pt", "w.old"]), wrapped(one.state_dict(), rng))
    load_into(other, read_weights(path), path)
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())


@pytest.mark.parametrize("kind", [FaceNetMini, FaceNet])
def test_both_networks_see_through_wrappers(tmp_path, kind):
    network = kind()
    state = {
        f"module._orig_mod.{key}": value for key, value in network.state_dict().items() if "num_batches" not in key
    }
    loaded = kind.from_pretrained(write(tmp_path / "w.pt", {"model": {"state_dict": state}}))
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in network.state_dict().items())


def test_names_that_would_become_one_are_not_mixed(tmp_path):
    state = Small().state_dict()
    with pytest.raises(WeightsError, match=r"1 unknown: module\.conv\.bias"):
        load_into(Small(), state | {"module.conv.bias": torch.zeros(4)}, tmp_path / "w.pt")


WRONG = {
    "integers": lambda w: w.int(),
    "bool": lambda w: w.bool(),
    "complex": lambda w: w.cfloat(),
    "quantised": lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8),
    "float8": lambda w: w.to(torch.float8_e4m3fn),
    "sparse": lambda w: w.to_sparse(),
    "compressed": lambda w: w.to_sparse_csr(),
    "meta": lambda w: w.to("meta"),
    "shape": lambda w: w[:1].clone(),
    "axes": lambda w: w.T.clone(),
    "not a number": lambda w: w.clone().fill_(float("nan")),
    "infinite": lambda w: w.clone().fill_(-float("inf")),
    "too large for float32": lambda w: w.double().fill_(1e300),
    "not stored": lambda w: torch.zeros(1).expand(1 << 40),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.filterwarnings("ignore")  # torch's remarks on kinds of tensors that will change
def test_tensors_that_cannot_be_the_networks_are_refused_by_name(tmp_path, kind):
    torch.manual_seed(0)
    network = Small()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    path = write(tmp_path / "w.pt", {"module." + k: v for k, v in Small().state_dict().items()})
    state = {**read_weights(path), "module.model.weight": WRONG[kind](Small().model.weight.detach())}
    with pytest.raises(WeightsError, match=r"model\.weight"):
        load_into(network, read_weights(write(path, state)), path)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("kind", ["counter", "float counter"])
def test_a_counter_is_a_whole_number(tmp_path, kind):
    state = Small().state_dict()
    state["norm.0.num_batches_tracked"] = torch.tensor(3.5 if "float" in kind else 3)
    network = Small()
    if kind == "counter":
        load_into(network, state, tmp_path)
        assert network.norm[0].num_batches_tracked == 3
    else:
        with pytest.raises(WeightsError, match=r"norm\.0\.num_batches_tracked torch\.float32"):
            load_into(network, state, tmp_path)


def test_names_in_messages_are_short_and_printable(tmp_path):
    path = write(tmp_path / "w.pt", {"a\x1b[2J" + "b" * 10_000: torch.tensor([float("nan")])})
    with pytest.raises(WeightsError) as caught:
        read_weights(path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def mutants(whole: bytes, n: int) -> Iterator[bytes]:
    """Damaged copies: a byte changed, a piece cut out, zeroed or repeated."""
    rng = random.Random(0)
    for at in (rng.randrange(len(whole)) for _ in range(n)):
        end = at + rng.randrange(1, 200)
        piece = rng.choice([b"", bytes(end - at), whole[at:end] * 2, None])
        changed = bytes([whole[at] ^ (1 << rng.randrange(8))])
        yield whole[:at] + changed + whole[at + 1 :] if piece is None else whole[:at] + piece + whole[end:]


@pytest.mark.parametrize("name", ["w.pt", "w.old", "w.safetensors"])
def test_damage_is_our_error_and_in_files_with_checksums_never_another_number(tmp_path, name):
    torch.manual_seed(0)
    state = Small().state_dict()
    path = write(tmp_path / name, state)
    refused = 0
    for damaged in mutants(path.read_bytes(), 150):
        path.write_bytes(damaged)
        try:
            found = read_weights(path)
        except WeightsError:
            refused += 1
        else:
            if name == "w.pt":
                assert found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)
    assert refused > 30


def test_files_that_unpack_to_more_than_their_size_are_refused(tmp_path):
    write(tmp_path / "zeros.pt", {"a": torch.zeros(1_000_000)})
    with zipfile.ZipFile(tmp_path / "zeros.pt") as whole, zipfile.ZipFile(tmp_path / "bomb.pt", "w", 8) as packed:
        for entry in whole.infolist():
            packed.writestr(entry.filename, whole.read(entry))
    with pytest.raises(WeightsError, match="damaged"):
        read_weights(tmp_path / "bomb.pt")


class Call:
    """Pickles to a call of something that torch allows in a file of weights."""

    def __init__(self, what: Callable, *arguments: object) -> None:
        self.call = what, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.skipif(os.name == "nt", reason="measures memory as Unix does")
@pytest.mark.parametrize("name", ["w.pt", "w.old"])
@pytest.mark.parametrize("what", [bytearray, torch.LongTensor, torch.Tensor])
def test_a_small_file_takes_little_memory(tmp_path, name, what):
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WeightsError, match="damaged"):
        read_weights(write(tmp_path / name, {"a": torch.zeros(2), "b": Call(what, 1 << 31)}))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes (bytes on macOS)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(WeightsError, match="is no file"):
        read_weights(tmp_path)


@pytest.mark.parametrize(
    ("module", "name", "load", "error"),
    [
        (mini, "PACKAGED_WEIGHTS", FaceNetMini.from_pretrained, WeightsError),
        (model_of_features, "PACKAGED_MODEL", model_of_features.FeatureModel.load, DataError),
    ],
)
def test_a_changed_byte_in_what_comes_with_the_package_is_noticed(tmp_path, monkeypatch, module, name, load, error):
    whole = getattr(module, name).read_bytes()
    path = tmp_path / "w.safetensors"
    monkeypatch.setattr(module, name, path)
    path.write_bytes(whole)
    load()
    for damaged in mutants(whole, 20):
        path.write_bytes(damaged)
        if damaged != whole:
            with pytest.raises(error, match="damaged.*again"):
                load()


class Trap:
    """Pickles to a call that makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("name", ["w.pt", "w.old", "plain pickle"])
def test_a_pickle_cannot_run_code(tmp_path, name):
    path, sprung = tmp_path / name, tmp_path / "sprung"
    if name == "plain pickle":
        path.write_bytes(pickle.dumps(Trap(sprung)))
    else:
        write(path, {"a": torch.zeros(2), "b": Trap(sprung)})
    with pytest.raises(WeightsError, match="can run code"):
        read_weights(path)
    assert not sprung.exists()


def test_missing_packaged_weights_tell_how_to_make_them(monkeypatch, tmp_path):
    monkeypatch.setattr(mini, "PACKAGED_WEIGHTS", tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match="facekit distill"):
        FaceNetMini.from_pretrained()


def test_packaged_weights_load():
    if not mini.PACKAGED_WEIGHTS.is_file():
        pytest.skip("facenet-mini's weights are not in this checkout; make them with `python -m facekit distill`")
    state = FaceNetMini.from_pretrained().state_dict()
    assert all(value.isfinite().all() for value in state.values() if value.is_floating_point())
    assert mini.PACKAGED_WEIGHTS.stat().st_size < 6_000_000
