"""Weights files: found in order, downloaded whole or not at all, read without running anything from them."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from safetensors.torch import save_file

from facekit import settings
from facekit.errors import WeightsError
from facekit.models import weights
from facekit.models.backbones import mini
from facekit.models.backbones.facenet import FaceNet
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.weights import download, find_weights, load_into, read_weights

BODY = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """A file server whose connections break after `cuts.pop(0)` bytes as long as there are cuts left."""

    def __init__(self, body: bytes, cuts: list[int], ranges: bool = True, status: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.cuts, self.ranges, self.status = body, list(cuts), ranges, status
        self.asked: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}/file"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
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


@pytest.mark.parametrize("state", [[torch.zeros(2)], {"epoch": 3, "model": {"a": torch.zeros(2)}}, torch.zeros(2)])
def test_files_that_are_no_state_dict(tmp_path, state):
    with pytest.raises(WeightsError, match="state dict"):
        read_weights(write(tmp_path / "w.pt", state))


def test_numbers_that_are_not_finite(tmp_path):
    with pytest.raises(WeightsError, match="a has values that are not finite"):
        read_weights(write(tmp_path / "w.pt", {"a": torch.tensor([1.0, float("nan")])}))


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
