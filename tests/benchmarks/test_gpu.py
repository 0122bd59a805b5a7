"""All of a GPU's rows in small on a processor: each is there, nothing runs twice, what did not run is named."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from test_studies import TinyFace, reference, toy_faces
from test_study_best import QUICK, ChainFace, toys

from benchmarks import gpu, gpu_rows
from benchmarks.__main__ import main
from benchmarks.gpu import REPORT, Outcome, adopt, lacking, prepared, same_machine, supervised, work, write
from benchmarks.gpu_rows import PHOTOS, ROWS, SET, WEIGHTS, Plan, Row, halving
from benchmarks.results import COLUMNS
from facekit import records, settings
from facekit.errors import ConfigError, DataError, WeightsError
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.embedding import embed
from facekit.models.weights import NAMES
from facekit.records import REFERENCE, recorded
from facekit.studies import contrastive, last_stage
from facekit.studies.runner import Block, Study
from facekit.tasks import AGE_BAND, GENDER, RACE

assert reference and toys  # toy photos and networks instead of FairFace and FaceNet
OF_SPEED = [name for name, row in ROWS.items() if "_speed" in row.studies.__qualname__]
OTHERS = {
    "best": "best_fairface",
    "ladder": "ladder_fairface",
    "last_stage": "last_stage_few",
    "distilled": "distilled_fairface",
    "contrastive": "contrastive_portraits",
}


class Heard(list):
    """A channel that keeps what a process says."""

    send = list.append

    def outcomes(self) -> dict[str, Outcome]:
        """By row."""
        names = [about for said, about in self if said == "begin"]
        return dict(zip(names, [about for said, about in self if said == "end"], strict=True))


def plan(out: Path, **changed) -> Plan:
    usual = {"device": "cpu", "small": True, "command": "python -m benchmarks gpu", "commit": "0" * 12, "machine": "m"}
    return Plan(out, **usual | changed)


@pytest.fixture
def everything(toys, tmp_path, monkeypatch) -> Path:
    """Toys for all rows of real photos; the folder for the records."""
    shutil.copy(REFERENCE / "ladder_rates.json", records.REFERENCE)
    toy_faces().save(settings.cache_dir() / SET)
    for module, values in (
        (last_stage, {"RECIPE": QUICK, "AFTER": "stem", "UNTIL": "block", "FaceNet": ChainFace}),
        (contrastive, {"EPOCHS": 2, "BATCH": 16, "LOOKED_AT": (1,)}),
    ):
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)
    monkeypatch.setattr("facekit.commands.distill.FaceNet", FaceNetMini)
    return tmp_path / "out"


def test_every_row_is_there_with_finite_figures_and_nothing_runs_twice(everything):
    said = Heard()
    work(said, plan(everything), list(ROWS))
    outcomes = said.outcomes()
    assert list(outcomes) == list(ROWS)
    assert {name: each.why for name, each in outcomes.items() if each.state != "measured"} == {}
    speed = recorded("speed_cpu", everything)
    assert {*speed.rows["part"], "compile"} == set(OF_SPEED), "with torch.compile it is the part of the network"
    assert list(speed.rows) == [*COLUMNS, "device"]
    tables = {name: recorded(f"{name}_cpu", everything) for name in OTHERS.values()} | {"speed": speed}
    for name, each in tables.items():
        assert np.isfinite(each.rows["value"]).all() and set(each.rows["device"]) == {"cpu"}, name
        assert each.about["git_commit"] == "0" * 12
    assert not list(everything.glob("*gpu*")), "no record of a processor is called that of a GPU"

    def kept() -> dict:
        return {path: path.stat().st_mtime_ns for path in (settings.cache_dir() / "recording").rglob("*.json")}

    before, again = kept(), Heard()
    assert len(before) > len(ROWS)
    work(again, plan(everything), list(ROWS))
    assert {each.state for each in again.outcomes().values()} == {"measured"} and kept() == before
    for name, each in tables.items():
        pd.testing.assert_frame_equal(recorded(f"{name}_cpu", everything).rows, each.rows)


def fails() -> pd.DataFrame:
    raise RuntimeError("no\nkernel image")


def one(value: float) -> pd.DataFrame:
    return pd.DataFrame({"row": ["a"], "unit": "photos/s", "value": value, "times": 1.0, "share": np.nan})


def row_of(*blocks: Block) -> Row:
    studies = [Study("speed", what="w", data="d", blocks=[block]) for block in blocks]
    return Row("", 1, lambda plan: iter(studies), len(studies))


def test_a_row_that_fails_is_told_and_keeps_its_steps_and_the_others(tmp_path, monkeypatch):
    first, other = (Block(part, one, (1.0,), {"part": part}) for part in "ab")
    rows = {"mini": row_of(first, Block("x", fails)), "check": row_of(other)}
    monkeypatch.setattr(gpu, "ROWS", rows)
    said = Heard()
    work(said, plan(tmp_path), list(rows))
    assert said[1] == ("step", "1 of 2 steps")
    outcomes = said.outcomes()
    assert outcomes["mini"].state == "failed" and outcomes["mini"].why == "RuntimeError: no kernel image"
    assert outcomes["check"].state == "measured"
    assert recorded("speed_cpu", tmp_path).rows["part"].tolist() == ["a", "b"]


def test_figures_of_another_machine_or_code_do_not_stay_in_the_record(tmp_path, monkeypatch):
    studies = [Study("speed", "w", "d", [Block(part, one, (1.0,), {"part": part})]) for part in "abc"]
    write(plan(tmp_path), studies[0])
    write(plan(tmp_path), studies[1])
    assert recorded("speed_cpu", tmp_path).rows["part"].tolist() == ["a", "b"]
    write(plan(tmp_path, commit="1" * 12), studies[1])
    assert recorded("speed_cpu", tmp_path).rows["part"].tolist() == ["b"]
    monkeypatch.setattr(records, "hardware", lambda: "another")
    write(plan(tmp_path, commit="1" * 12), studies[2])
    assert recorded("speed_cpu", tmp_path).rows["part"].tolist() == ["c"]


def acting(channel, plan: Plan, names: list[str]) -> None:
    """A process that measures `check`, is stuck in `embedding`, and is ended in `mini`."""
    for name in names:
        channel.send(("begin", name))
        if name == "embedding":
            channel.send(("step", "1 of 2 steps"))
            time.sleep(600)
        if name == "mini":
            os.kill(os.getpid(), signal.SIGKILL)
        channel.send(("end", Outcome("measured")))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the toy process is forked")
def test_a_stuck_row_and_an_ended_process_are_named_and_the_next_rows_run(tmp_path, monkeypatch):
    """Nothing is lost: a row is measured, stopped in its time, or named with what ended it."""
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(gpu.multiprocessing, "get_context", lambda kind: fork)
    monkeypatch.setattr(gpu, "work", acting)
    names = ["check", "embedding", "mini", "packed"]
    found = supervised(plan(tmp_path), names, 4.0, {"ladder": Outcome("not run", "no photos")})
    assert list(found) == names
    assert [each.state for each in found.values()] == ["measured", "partly", "failed", "measured"]
    assert "1 of 2 steps" in found["embedding"].why and "SIGKILL" in found["mini"].why
    report = json.loads((tmp_path / REPORT).read_text())
    assert report["rows"]["ladder"]["why"] == "no photos" and set(report["rows"]) == {"ladder", *names}


def never(channel, plan: Plan, names: list[str]) -> None:
    raise SystemExit(3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the toy process is forked")
def test_a_process_that_cannot_begin_is_not_started_for_ever(tmp_path, monkeypatch):
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(gpu.multiprocessing, "get_context", lambda kind: fork)
    monkeypatch.setattr(gpu, "work", never)
    found = supervised(plan(tmp_path), ["check", "mini"], 60)
    assert {each.why for each in found.values()} == {"the process ended (status 3)"}


def test_without_time_every_row_is_named_and_none_is_begun(tmp_path):
    found = supervised(plan(tmp_path), list(ROWS), 0)
    assert list(found) == list(ROWS) and {each.told() for each in found.values()} == {
        "not run (0 s): the time was over"
    }


def test_the_whole_command_names_what_did_not_run_and_records_nothing_of_a_processor(tmp_path, capfd, monkeypatch):
    """With a process of its own, as it is called."""
    monkeypatch.delenv("FACEKIT_DATA", raising=False)
    options = ["gpu", "--device", "cpu", "--small", "true", "--out", str(tmp_path), "--minutes", "5"]
    options += ["--rows", '["distillation", "ladder"]']
    assert main(options) == 1
    printed = capfd.readouterr().out
    assert "distillation: measured" in printed and "ladder       not run (0 s): no photos" in printed
    assert (tmp_path / "speed_cpu.json").exists()
    assert len(list((tmp_path / "cache" / "recording" / "speed").iterdir())) == 1
    before = sorted(REFERENCE.iterdir())
    assert main(["gpu", "--out", str(tmp_path), "--minutes", "0", "--record", "true"]) == 2
    assert sorted(REFERENCE.iterdir()) == before


def test_a_dry_run_lists_rows_and_what_is_missing_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("FACEKIT_DATA", raising=False)
    assert main(["gpu", "--device", "cpu", "--dry", "true", "--out", str(tmp_path / "o")]) == 1
    printed = capsys.readouterr().out
    assert all(f"  {name}" in printed for name in ROWS) and printed.count("NOT RUN: no photos") == 4
    assert not (tmp_path / "o").exists()


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_why(capsys):
    assert main(["gpu"]) == 2
    assert "there is no GPU that torch can use here" in capsys.readouterr().err
    assert main(["gpu", "--rows", '["all"]']) == 2 and main(["gpu", "--minutes", "-1"]) == 2


def test_a_batch_that_does_not_fit_is_halved_and_said(capsys):
    tried = []

    def measure(size: int) -> int:
        tried.append(size)
        if size > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return -size

    assert halving(measure, 40) == (-5, 5) and tried == [40, 20, 10, 5]
    assert "too small for 40 rows a step; 20 now" in capsys.readouterr().out
    with pytest.raises(torch.OutOfMemoryError):
        halving(lambda size: measure(99), 7)


def test_a_batch_that_embed_has_no_memory_for_is_halved_and_other_errors_are_raised(monkeypatch):
    def forward(self, images):
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.nn.functional.normalize(images.float().mean((2, 3)))

    monkeypatch.setattr(TinyFace, "forward", forward)
    found, size = halving(lambda size: embed(TinyFace(), toy_faces(), size, cache=False), 8)
    assert size == 2 and len(found) == len(toy_faces())
    with pytest.raises(ConfigError, match="precision"):
        halving(lambda size: embed(TinyFace(), toy_faces(), size, precision="x"), 8)


def test_without_a_compiler_the_row_of_it_says_so(monkeypatch):
    monkeypatch.setattr(gpu_rows.speed, "_compiles", lambda place: False)
    with pytest.raises(ConfigError, match="torch.compile finds no compiler"):
        gpu_rows.measure_training("mini", 2, 1, 1, True)


def test_photos_and_weights_come_into_the_cache_or_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("FACEKIT_DATA", raising=False)
    assert set(prepared(tmp_path / "none", None, None)) == {PHOTOS, WEIGHTS}
    source, rng = tmp_path / "fairface", np.random.default_rng(0)
    source.mkdir()
    with zipfile.ZipFile(source / "fairface-img-margin025-trainval.zip", "w") as archive:
        for side in ("train", "val"):
            lines = ["file,age,gender,race,service_test"]
            for number in range(1, 41):
                path = tmp_path / "one.jpg"
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
                archive.write(path, f"{side}/{number}.jpg")
                labels = [rng.choice(task.classes) for task in (AGE_BAND, GENDER, RACE)]
                lines.append(",".join([f"{side}/{number}.jpg", *labels, "True"]))
            (source / f"fairface_label_{side}.csv").write_text("\n".join(lines) + "\n")
    weights = tmp_path / "half.safetensors"
    save_file({"a": torch.ones(2).half()}, weights)
    assert prepared(tmp_path / "out", source, weights) == {}
    packed = tmp_path / "out" / "cache" / SET
    assert (packed / "manifest.json").exists() and (tmp_path / "out" / "cache" / "weights" / NAMES[0]).exists()
    assert prepared(tmp_path / "out", None, None) == {}, "they are there now"
    assert prepared(tmp_path / "again", packed, weights) == {}, "a packed set is taken as it is"
    other = toy_faces().save(tmp_path / "other")
    with pytest.raises(DataError, match="other photos"):
        prepared(tmp_path / "again", other, weights)
    with pytest.raises(DataError, match="other photos"):
        prepared(tmp_path / "out", other, weights)
    assert lacking(["check", "ladder"], {WEIGHTS: "none"}) == {"ladder": "none"}
    with pytest.raises(DataError, match="does not exist"):
        prepared(tmp_path / "x", tmp_path / "nowhere", None)
    weights.write_bytes(b"none")
    with pytest.raises(WeightsError):
        prepared(tmp_path / "y", packed, weights)


def recorded_in(folder: Path, name: str, **changed) -> None:
    rows = one(1.0).assign(device=changed.pop("device", "cuda"))
    about = {
        "what": "w",
        "data": "d",
        "command": "python -m benchmarks gpu",
        "seconds": 1,
        "commit": "a" * 12,
    } | changed
    records.record(name, rows, folder=folder, **about)


def test_only_whole_records_of_a_gpu_get_into_the_reference_and_none_of_a_processor_is_replaced(tmp_path, monkeypatch):
    target = tmp_path / "reference"
    target.mkdir()
    monkeypatch.setattr(gpu, "REFERENCE", target)
    with pytest.raises(ConfigError, match="no record of a GPU"):
        adopt(tmp_path)
    recorded_in(target, "ladder_fairface", device="cpu")
    before = (target / "ladder_fairface.json").read_bytes()
    for wrong in ({"device": "cpu"}, {"commit": "a+changes"}, {"command": "python -m benchmarks gpu --small true"}):
        recorded_in(tmp_path, "speed_gpu", **wrong)
        with pytest.raises((ConfigError, DataError), match="speed_gpu"):
            adopt(tmp_path)
    recorded_in(tmp_path, "speed_gpu")
    recorded_in(tmp_path, "ladder_fairface_gpu")
    recorded_in(tmp_path, "ladder_fairface")
    adopt(tmp_path)
    assert sorted(path.name for path in target.iterdir()) == [
        "ladder_fairface.json",
        "ladder_fairface_gpu.json",
        "speed_gpu.json",
    ]
    assert (target / "ladder_fairface.json").read_bytes() == before
    assert recorded("speed_gpu", target).rows["device"].tolist() == ["cuda"]


def test_a_folder_of_another_machine_is_refused(tmp_path):
    same_machine(tmp_path, "here")
    (tmp_path / REPORT).write_text('{"machine": "there", "rows": {}}')
    with pytest.raises(ConfigError, match="another machine"):
        same_machine(tmp_path, "here")


def test_a_device_that_computes_something_else_is_refused(monkeypatch):
    real = gpu_rows.embed

    def wrong(network, faces, device=None, **options):
        found = real(network, faces, device="cpu", **options)
        return found if device == "cpu" else replace(found, inputs=np.roll(found.features, 1, axis=0))

    monkeypatch.setattr(gpu_rows, "embed", wrong)
    with pytest.raises(gpu_rows.TrainingError, match="computes something else"):
        gpu_rows.measure_check(4, 1)


@pytest.fixture
def no_driver(monkeypatch):
    """What is asked of torch.cuda besides tensors is answered, without a GPU; returns what was called, in order."""
    called: list[str] = []
    answers = {
        "init": None,
        "reset_peak_memory_stats": None,
        "max_memory_allocated": 3 * 2**20,
        "synchronize": None,
        "empty_cache": None,
        "mem_get_info": (2**30, 2**31),
        "get_device_capability": (9, 0),
        "get_arch_list": ["sm_80"],
        "is_bf16_supported": True,
        "set_sync_debug_mode": None,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *a, name=name, answer=answer, **k: called.append(name) or answer)
    return called


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device answers here")
def test_on_a_gpu_memory_is_recorded_and_a_spoiled_device_ends_the_process(tmp_path, monkeypatch, no_driver):
    good, bad = row_of(Block("a", one, (1.0,), {"part": "a"})), row_of(Block("x", fails))
    monkeypatch.setattr(gpu, "ROWS", {"check": good, "mini": bad, "packed": good})
    said = Heard()
    work(said, plan(tmp_path, device="cuda", small=False), ["check", "mini", "packed"])
    assert no_driver[0] == "init", "nothing else of torch.cuda can be asked before"
    first, second = said.outcomes().values()
    assert (first.state, first.peak) == ("measured", 3.0) and (second.state, second.peak) == ("failed", None)
    assert recorded("speed_gpu", tmp_path).rows["device"].tolist() == ["cuda"]


def test_what_may_go_wrong_on_a_gpu_is_listed(tmp_path, no_driver, monkeypatch):
    monkeypatch.setattr(gpu.shutil, "which", lambda name: None)
    found = gpu.conditions(plan(tmp_path, device="cuda", commit=None))
    assert found["kernels"] == "sm_90, NOT among sm_80" and found["memory"] == "1 of 2 GiB free on the device"
    assert "no C compiler" in found["torch.compile"] and "nothing can be recorded" in found["commit"]


def test_lines_that_wait_for_a_gpu_are_collected(no_driver):
    with gpu_rows.counting_waits(torch.device("cuda")) as lines:
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    assert len(lines) == 1 and lines[0].startswith("test_gpu.py:")
    with gpu_rows.counting_waits(torch.device("cpu")) as lines:
        pass
    assert lines == [] and no_driver == ["set_sync_debug_mode"] * 2


def test_in_a_container_with_little_shared_memory_a_dataloader_has_no_helpers(monkeypatch):
    for room, wanted in ((2**26, 0), (2**34, None)):
        monkeypatch.setattr(gpu_rows, "shared_memory", lambda room=room: room)
        assert gpu_rows.helpers() == wanted
