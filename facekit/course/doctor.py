"""`python -m facekit doctor`: what works on this machine, and the line to type for what does not.

Nothing but the standard library is imported before the check that is about it, so the doctor still speaks when
torch, or anything else, does not.
"""

from __future__ import annotations

import errno
import importlib
import importlib.metadata
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from facekit.errors import ConfigError, FacekitError

Status = Literal["OK", "FAIL", "--"]
ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements.lock"
OLDEST_PYTHON = (3, 11)
# Gigabytes that a profile needs beside the installation; full: FairFace at 160 pixels takes 7.5, archives come on top.
ROOM = {"laptop": 1, "full": 20}


@dataclass(frozen=True)
class Check:
    """One finding. status: OK, FAIL (must be repaired), or -- (missing, but this profile works without it).

    detail: what was found, on one line. remedy: the line to type, empty where nothing is to be done.
    """

    name: str
    status: Status
    detail: str
    remedy: str = ""


class _Missing(Exception):
    """A check that did not pass: status, what was found, the line to type."""


def doctor() -> int:
    """Prints OK, FAIL or -- for everything that the course needs, with the line to type where something is missing.

    Returns 1 if something must be repaired, else 0.

    Examples:
        python -m facekit doctor
    """
    found = checks()
    width = max(len(check.name) for check in found)
    for check in found:
        print(f"{check.status:<4}  {check.name:<{width}}  {check.detail}")
        if check.remedy:
            print(f"{'':<4}  {'':<{width}}  -> {check.remedy}")
    failed = [check.name for check in found if check.status == "FAIL"]
    print(f"\nTo be repaired: {', '.join(failed)}." if failed else "\nReady: python -m facekit lab opens the lessons.")
    return 1 if failed else 0


def checks(required_only: bool = False) -> list[Check]:
    """Every check, in order. `required_only`: those that every machine must pass, whatever its GPU, disk and photos.

    Of the required ones name and status are the same on every machine that is in order; the details hold versions.
    """
    found: dict[str, Check] = {}
    for name, check in [*REQUIRED.items(), *({} if required_only else OPTIONAL).items()]:
        torch, settings = found.get("torch and torchvision"), found.get("settings")
        if torch and torch.status != "OK" and check is not _widgets:
            found[name] = Check(name, "--", "not checked: torch must work first")
        elif settings and settings.status != "OK" and check is not _gpu:  # what is wrong is said once
            found[name] = Check(name, "--", "not checked: the settings must be right first")
        else:
            found[name] = _run(name, check)
    return list(found.values())


def _run(name: str, check: Callable[[], str]) -> Check:
    """The finding of one check, whatever it raises."""
    try:
        return Check(name, "OK", check())
    except _Missing as missing:
        return Check(name, *missing.args)
    except FacekitError as error:
        return Check(name, "FAIL", _one_line(error), "correct what the message names, and type this command again")
    except PermissionError as error:
        return Check(name, "FAIL", f"no permission for {error.filename}", f"{_variable('FACEKIT_CACHE')}, or allow it")
    except Exception as error:  # a doctor must not fall ill with the patient: a broken library may raise anything
        return Check(name, "FAIL", f"{type(error).__name__}: {_one_line(error)}", _install())


def lab(work: Path | None = None, browser: bool = True, port: int = 8888, allow_root: bool = False) -> int:
    """Starts JupyterLab with this Python on copies of the lessons and waits for its end; returns its exit status.

    It opens the notebook that was worked in last, else the first lesson.

    Args:
        work: the folder with the copies, which an upgrade of the course respects; `work` beside the lessons by default.
        browser: open one.
        port: the next free one is taken where it is in use.
        allow_root: let the administrator of a container run it.

    Examples:
        python -m facekit lab
        python -m facekit lab --work ~/course
        python -m facekit lab --browser false --port 9000
    """
    from facekit.course.workspace import left_last, open_work, work_folder

    if not 0 <= port < 2**16:
        raise ConfigError(f"port must be from 0 to {2**16 - 1}, got {port}; 8888 is JupyterLab's.")
    folder = work_folder(work)
    if not _version("jupyterlab"):
        raise ConfigError(f"JupyterLab is not installed; type: {_install()}")
    for sentence in open_work(folder):
        print(sentence, flush=True)
    first = f"/lab/tree/{quote(left_last(folder))}"
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={folder.resolve()}"]
    command += [f"--ServerApp.port={port}", f"--LabApp.default_url={first}"]
    command += [] if browser else ["--no-browser"]
    command += ["--allow-root"] if allow_root else []
    # Tabs are opened again next time: those of this folder, not those of whatever else JupyterLab was used for.
    environment = {"JUPYTERLAB_WORKSPACES_DIR": str(folder.resolve() / ".workspaces")} | lab_environment()
    return subprocess.run(command, check=False, env=environment).returncode


def lab_environment() -> dict[str, str]:
    """The environment of JupyterLab for the lessons: this one, and defaults of the course below the user's own.

    No question about news, no look for updates; a key that is pressed in a widget stays with it, where JupyterLab would
    move to another cell, or cut this one; pictures carry their text alternative, on the screen and in exported pages.
    """
    course = Path(__file__).parent / "jupyter"
    folders = {"JUPYTER_CONFIG_PATH": course, "JUPYTER_PATH": course / "share"}
    # The networks of the lessons are small: threads that spin while they wait for one another cost several times the
    # work itself as soon as anything else runs on the machine.
    environment = {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ
    for name, folder in folders.items():
        environment[name] = os.pathsep.join(filter(None, (str(folder), os.environ.get(name, ""))))
    return environment


def _python() -> str:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < OLDEST_PYTHON:
        raise _Missing("FAIL", f"{version}; facekit needs 3.11 or newer", "python3.11 -m venv .venv")
    return version


def _packages() -> str:
    """Whether everything that facekit asks for is installed in a version that it takes."""
    unmet = _unmet("facekit")
    if unmet:
        raise _Missing("FAIL", f"not installed as needed: {'; '.join(unmet)}", _install())
    return "everything that facekit requires"


def _torch() -> str:
    """Whether torch and torchvision are one pair: a mismatch imports, then lacks torchvision's compiled operators."""
    unmet = _unmet("torchvision")
    if unmet:
        raise _Missing("FAIL", f"not a matching pair: torchvision {_version('torchvision')} needs {unmet[0]}", _pair())
    try:
        torch, ops = importlib.import_module("torch"), importlib.import_module("torchvision.ops")
        boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]])
        kept = ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist()
    except Exception as error:  # ImportError, OSError (a library of the system), RuntimeError (no operator) …
        raise _Missing("FAIL", f"{type(error).__name__}: {_one_line(error)}", _pair()) from error
    if kept != [0, 2]:
        raise _Missing("FAIL", f"torchvision.ops.nms keeps boxes {kept}, not 0 and 2", _pair())
    return f"{torch.__version__} and {_version('torchvision')} work together"


def _facenet() -> str:
    importlib.import_module("facenet_pytorch")
    return str(_version("facenet-pytorch"))


def _widgets() -> str:
    """ipywidgets draws nothing in JupyterLab unless jupyterlab_widgets of the fitting version is installed with it."""
    unmet = _unmet("ipywidgets")
    if unmet:
        raise _Missing("FAIL", f"ipywidgets {_version('ipywidgets')} needs {'; '.join(unmet)}", _install())
    lab_version = _version("jupyterlab")
    if lab_version is None:
        raise _Missing("FAIL", "JupyterLab is not installed", _install())
    if int(lab_version.split(".")[0]) < 4:
        raise _Missing("FAIL", f"JupyterLab {lab_version}; its widgets need 4", _install())
    extension = Path(sys.prefix, "share/jupyter/labextensions/@jupyter-widgets/jupyterlab-manager/package.json")
    if not extension.is_file():
        reinstall = f"{_pip()} --force-reinstall --no-deps jupyterlab_widgets=={_version('jupyterlab_widgets')}"
        raise _Missing("FAIL", "the extension of jupyterlab_widgets is not in this environment", reinstall)
    versions = (f"{name} {_version(name)}" for name in ("ipywidgets", "jupyterlab_widgets", "jupyterlab"))
    return ", ".join(versions)


def _settings() -> str:
    """Whether facekit's environment variables have values that it can use."""
    settings = importlib.import_module("facekit.settings")
    settings.data_dir(), settings.cache_dir()
    return f"profile {settings.profile()}, computing on {settings.device()}"


def _gpu() -> str:
    """A GPU counts only if it computes: a build of torch for other GPUs finds it and fails at the first operation."""
    torch = importlib.import_module("torch")
    if not torch.cuda.is_available():
        if shutil.which("nvidia-smi"):
            raise _Missing("--", f"torch {torch.__version__} cannot use the one here; the CPU does all", _pair())
        return "none; the lessons do not need one"
    names = []
    try:
        for index in range(torch.cuda.device_count()):
            torch.ones(8, device=f"cuda:{index}").sum().item()
            free, total = torch.cuda.mem_get_info(index)
            names.append(f"{torch.cuda.get_device_name(index)}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free")
    except RuntimeError as error:
        raise _Missing(
            "--", f"it does not compute ({_one_line(error)}); FACEKIT_DEVICE=cpu does all", _pair()
        ) from error
    return "; ".join(names)


def _disk() -> str:
    settings = importlib.import_module("facekit.settings")
    folder = settings.cache_dir().absolute()
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, "not writable", str(folder))
    free, needed = shutil.disk_usage(folder).free / 1e9, ROOM[settings.profile()]
    detail = f"{free:.0f} GB for the cache in {settings.cache_dir()}"
    if free < needed:
        raise _Missing("--", f"{detail}; profile {settings.profile()} may need {needed}", _variable("FACEKIT_CACHE"))
    return detail


def _weights() -> str:
    settings, weights = importlib.import_module("facekit.settings"), importlib.import_module("facekit.models.weights")
    file = weights.local_weights()
    if file is None:
        fetch = f'{_this_python()} -c "from facekit.models.weights import find_weights; print(find_weights())"'
        raise _Missing(*_absent(settings.profile(), "112 MB"), fetch)
    return str(file)


def _photos() -> str:
    """Packed or unpacked FairFace, and the other sets, where the course looks for them."""
    settings = importlib.import_module("facekit.settings")
    data, packed = settings.data_dir(), settings.cache_dir() / "fairface-160"
    found = [f"FairFace, packed in {packed}"] if (packed / "manifest.json").is_file() else []
    names = {"FairFace": "fairface", "UTKFace": "utkface", "ISIC": "isic", "CIFAR-10": "cifar10", "captchas": "captcha"}
    folders = names.items() if data else ()
    found += [f"{name} in {data / folder}" for name, folder in folders if (data / folder).is_dir()]
    if not any(text.startswith("FairFace") for text in found):
        note = "see datasets/" if data is None else f"{data} has no folder fairface; see datasets/FAIRFACE.md"
        remedy = _variable("FACEKIT_DATA") if data is None else f"put the photos into {data / 'fairface'}"
        raise _Missing(*_absent(settings.profile(), note), remedy)
    return "; ".join(found)


# In order: what comes after torch waits for it, but for the widgets.
REQUIRED: dict[str, Callable[[], str]] = {
    "Python": _python,
    "packages": _packages,
    "torch and torchvision": _torch,
    "facenet-pytorch": _facenet,
    "widgets in JupyterLab": _widgets,
    "settings": _settings,
}
OPTIONAL: dict[str, Callable[[], str]] = {
    "GPU": _gpu,
    "free disk": _disk,
    "FaceNet weights": _weights,
    "photos": _photos,
}


def _absent(profile: str, note: str) -> tuple[Status, str]:
    """Status and detail of something that only the full profile needs."""
    if profile == "full":
        return "FAIL", f"not found, and profile full needs it ({note})"
    return "--", f"not found; profile laptop does not need it ({note})"


def _unmet(distribution: str) -> list[str]:
    """What a distribution requires and this environment lacks, such as `torch==2.15.0 (found 2.13.0)`."""
    try:
        required = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return [f"{distribution} (not installed)"]
    requirement = importlib.import_module("packaging.requirements").Requirement
    unmet = []
    for wanted in map(requirement, required):
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        version = _version(wanted.name)
        if version is None:
            unmet.append(f"{wanted.name}{wanted.specifier} (not installed)")
        elif not wanted.specifier.contains(version, prereleases=True):
            unmet.append(f"{wanted.name}{wanted.specifier} (found {version})")
    return unmet


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _this_python() -> str:
    return subprocess.list2cmdline([sys.executable]) if os.name == "nt" else shlex.quote(sys.executable)


def _pip() -> str:
    return f"{_this_python()} -m pip install"


def _install() -> str:
    """The line that installs everything in the versions that the course was tested with."""
    return f'{_pip()} -r "{LOCK}" -e "{ROOT}"' if LOCK.is_file() else f'{_pip()} --upgrade "facekit[lab]"'


def _pair() -> str:
    """The line that installs torch and torchvision, the pair of the lock file if facekit was installed with one."""
    lines = LOCK.read_text(encoding="utf-8").splitlines() if LOCK.is_file() else []
    pair = [line for line in lines if line.split("==")[0] in ("torch", "torchvision")]
    return f"{_pip()} --force-reinstall {' '.join(pair or ['torch', 'torchvision'])}"


def _variable(name: str) -> str:
    return f"set {name}=FOLDER" if os.name == "nt" else f"export {name}=FOLDER"


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:199] + "…"
