"""The doctor: every patient gets a line, whatever is broken, and every fault a line to type."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from facekit import settings
from facekit.course import doctor, folders
from facekit.errors import ConfigError, LessonError
from facekit.models import weights

REQUIRED = ["Python", "packages", "torch and torchvision", "facenet-pytorch", "widgets in JupyterLab", "settings"]
OPTIONAL = ["GPU", "free disk", "FaceNet weights", "photos"]


@pytest.fixture
def healthy(monkeypatch) -> pytest.MonkeyPatch:
    """Profile laptop with nothing of this machine's own."""
    for name in ("FACEKIT_PROFILE", "FACEKIT_DATA", "FACEKIT_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def found() -> dict[str, doctor.Check]:
    return {check.name: check for check in doctor.checks()}


def test_a_machine_in_order_passes_without_photos_and_weights(healthy, capsys):
    assert doctor.doctor() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [check.name for check in doctor.checks()] == REQUIRED + OPTIONAL
    assert sum(line.startswith(("OK    ", "--    ")) for line in lines) == len(REQUIRED + OPTIONAL)
    assert found()["photos"].status == found()["FaceNet weights"].status == "--"
    assert lines[-1].startswith("Ready")


def test_the_required_checks_say_the_same_on_every_machine(healthy):
    assert [(check.name, check.status) for check in doctor.checks(required_only=True)] == [(n, "OK") for n in REQUIRED]


def test_every_fault_has_a_line_to_type(healthy):
    healthy.setenv("FACEKIT_PROFILE", "full")
    healthy.setattr(doctor, "ROOM", {"full": 10**9})
    installed = doctor._version
    healthy.setattr(doctor, "_version", lambda name: None if "widgets" in name else installed(name))
    checks = found()
    assert not [check for check in checks.values() if check.status != "OK" and not check.remedy]
    assert not [check for check in checks.values() if "\n" in check.detail + check.remedy]
    assert checks["photos"].status == checks["FaceNet weights"].status == "FAIL"
    assert checks["free disk"].status == "--" and checks["packages"].status == "FAIL"
    assert checks["widgets in JupyterLab"].status == "FAIL"


def test_photos_and_weights_are_found_where_the_course_looks_for_them(healthy, tmp_path):
    healthy.setenv("FACEKIT_DATA", str(tmp_path))
    healthy.setenv("FACEKIT_PROFILE", "full")
    (tmp_path / "utkface").mkdir()
    assert found()["photos"].status == "FAIL", "the full profile is about FairFace"
    (tmp_path / "fairface").mkdir()
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / weights.NAMES[0]).touch()
    checks = found()
    assert checks["photos"].status == checks["FaceNet weights"].status == "OK"
    assert "FairFace" in checks["photos"].detail and "UTKFace" in checks["photos"].detail
    healthy.delenv("FACEKIT_DATA")
    packed = settings.cache_dir() / "fairface-160"
    packed.mkdir(parents=True)
    (packed / "manifest.json").touch()
    assert found()["photos"].status == "OK"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FACEKIT_PROFILE", "desktop"),
        ("FACEKIT_DATA", "nowhere"),
        ("FACEKIT_DATA", __file__),
        ("FACEKIT_DATA", "~nobody-of-this-name/photos"),
        ("FACEKIT_CACHE", __file__),
        ("FACEKIT_CACHE", f"{__file__}/deep/in"),
        ("FACEKIT_DEVICE", "mps:7"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(healthy, name, value):
    healthy.setenv(name, value)
    checks = found()
    check = checks["settings"]
    assert check.status == "FAIL" and name in check.detail and value in check.detail
    others = [checks[other] for other in ("free disk", "FaceNet weights", "photos")]
    assert {(other.status, other.detail) for other in others} == {
        ("--", "not checked: the settings must be right first")
    }


def test_a_folder_that_lacks_photos_or_rights_is_named(healthy, tmp_path):
    healthy.setenv("FACEKIT_DATA", str(tmp_path))
    check = found()["photos"]
    assert check.status == "--" and f"{tmp_path} has no folder fairface" in check.detail
    assert check.remedy == f"put the photos into {tmp_path / 'fairface'}"
    healthy.setattr(os, "access", lambda path, mode: False)
    check = found()["free disk"]
    assert check.status == "FAIL" and "no permission for" in check.detail and "FACEKIT_CACHE" in check.remedy


def test_a_package_of_the_wrong_version_is_named_with_what_was_found(healthy):
    installed = doctor._version
    healthy.setattr(doctor, "_version", lambda name: "7.7.1" if name == "ipywidgets" else installed(name))
    check = found()["packages"]
    assert check.status == "FAIL" and "ipywidgets>=8.1 (found 7.7.1)" in check.detail
    assert "requirements.lock" in check.remedy


def test_the_line_for_torch_names_the_pair_of_the_lock_file(healthy):
    lock = (Path(__file__).parents[2] / "requirements.lock").read_text().splitlines()
    for line in lock:
        if line.startswith(("torch==", "torchvision==")):
            assert line in doctor._pair().split()


def test_a_gpu_that_does_not_compute_is_no_reason_to_stop(healthy):
    import torch

    def fail(*_, **__):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore lines")

    healthy.setattr(torch.cuda, "is_available", lambda: True)
    healthy.setattr(torch.cuda, "device_count", lambda: 1)
    healthy.setattr(torch, "ones", fail)
    check = found()["GPU"]
    assert check.status == "--" and "no kernel image" in check.detail and check.remedy


BROKEN = {
    "a library of the system is missing": ("torch", "raise OSError('libcudart.so.13: cannot open shared object file')"),
    "torchvision was built for another torch": (
        "torchvision",
        "raise RuntimeError('operator torchvision::nms does not exist')",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_it_speaks_when_torch_does_not(tmp_path, fault):
    package, line = BROKEN[fault]
    (tmp_path / f"{package}.py").write_text(line + "\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "facekit", "doctor"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    [torch_line] = [text for text in result.stdout.splitlines() if text.startswith("FAIL")]
    assert "torch and torchvision" in torch_line and line.split("'")[1] in torch_line
    assert "-m pip install --force-reinstall torch==" in result.stdout
    assert "OK    widgets in JupyterLab" in result.stdout and "not checked: torch must work first" in result.stdout


def test_lab_starts_jupyterlab_on_copies_of_the_lessons(monkeypatch, tmp_path):
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "own")
    started, folders = [], []

    def run(command: list[str], env: dict[str, str], **_) -> subprocess.CompletedProcess:
        started.append(command)
        folders.extend(env["JUPYTER_CONFIG_PATH"].split(os.pathsep))
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(subprocess, "run", run)
    work = tmp_path / "my course"
    assert doctor.lab(work, browser=False) == 3
    [command] = started
    assert command[:3] == [sys.executable, "-m", "jupyterlab"] and "--no-browser" in command
    assert f"--ServerApp.root_dir={work.resolve()}" in command and "--allow-root" not in command
    assert "--LabApp.default_url=/lab/tree/00_start_here.ipynb" in command
    assert (work / "03_feature_extraction.ipynb").is_file()
    assert folders[1:] == [os.environ["JUPYTER_CONFIG_PATH"]], "the user's own folders come after"
    defaults = json.loads(Path(folders[0], "labconfig/default_setting_overrides.json").read_text())
    assert defaults["@jupyterlab/apputils-extension:notification"]["fetchNews"] == "false"
    server = json.loads(Path(folders[0], "jupyter_server_config.json").read_text())["ServerApp"]
    # An upload is one message, and the server drops the connection of one that is larger (by default 10 MiB).
    assert server["tornado_settings"]["websocket_max_message_size"] >= 50e6, "photos of phones can be uploaded"

    (work / "00_start_here.ipynb").write_text("{}")
    (work / "my notes & more.ipynb").write_text("{}")
    os.utime(work / "my notes & more.ipynb", (2e9, 2e9))
    doctor.lab(work)
    assert "--LabApp.default_url=/lab/tree/my%20notes%20%26%20more.ipynb" in started[1], "the one left last"


def test_keys_pressed_in_a_widget_stay_with_it():
    """JupyterLab's one-key commands act wherever the focus is: an arrow would leave the quiz, X cut the cell around it.

    Each has a rival here that is true inside widgets alone, weighs more there by one class, and does nothing.
    """
    folder = Path(doctor.__file__).parent / "jupyter" / "labconfig" / "default_setting_overrides.json"
    ours = json.loads(folder.read_text())["@jupyterlab/shortcuts-extension:shortcuts"]["shortcuts"]
    schema = next(file for file in metadata.files("jupyterlab") if file.match("notebook-extension/tracker.json"))
    theirs = json.loads(schema.locate().read_text())["jupyter.lab.shortcuts"]
    anywhere = ".jp-Notebook.jp-mod-commandMode:not(.jp-mod-readWrite) :focus"
    plain = {tuple(each["keys"]) for each in theirs if each["selector"] == anywhere}
    plain = {keys for keys in plain if keys and not any(" " in key for key in keys)}
    assert {("ArrowDown",), ("X",), ("D", "D")} <= plain
    assert plain == {tuple(each["keys"]) for each in ours}
    assert {each["selector"] for each in ours} == {anywhere.replace(" :focus", " .jupyter-widgets :focus")}
    assert not any(each["preventDefault"] for each in ours)
    commands = {each["command"] for each in ours}
    assert commands.isdisjoint(each["command"] for each in theirs) and all(":" in name for name in commands)


@pytest.mark.parametrize(("own", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_of_the_lessons_wait_without_spinning_unless_the_user_says_otherwise(monkeypatch, own, expected):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if own:
        monkeypatch.setenv("OMP_WAIT_POLICY", own)
    assert doctor.lab_environment()["OMP_WAIT_POLICY"] == expected


def test_lab_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    with pytest.raises(ConfigError, match="JupyterLab is not installed; type: .* -m pip install"):
        doctor.lab(tmp_path / "work")
    assert not (tmp_path / "work").exists()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folders, "LESSONS", tmp_path / "gone")
    with pytest.raises(LessonError, match="no folder `lessons`"):
        doctor.lab()
