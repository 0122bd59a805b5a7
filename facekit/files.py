"""What facekit writes: files that are whole or absent, in folders that one process writes, and nobody else's files.

While facekit writes a folder, a file `.facekit` there has the names of what it writes, noted before the first of them
is written. It stays where that was stopped; of a folder that is complete, `manifest.json` or `log.csv` says that it is
facekit's. Only such files are replaced or deleted: another one of such a name is in the way, and stays. The same file
is locked while a process writes the folder; a second one is refused.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import secrets
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from types import UnionType
from typing import IO, Any
from urllib.parse import unquote

from facekit.errors import FacekitError, OutputError

MARKER = ".facekit"
_HEAD = "# facekit wrote what has these names here, and replaces no other file:\n"
# Files by whose content facekit knows a folder that it wrote, and the names that they speak for.
_SET = ("inputs.npy", "labels.csv", "manifest.json", ".pack.journal", ".pack.pixels")
_RUN = (
    *("best.safetensors", "last-[0-9]*.safetensors", "last.pt", "log.csv", "events.out.tfevents.facekit"),
    *("model.json", "metrics.json", "config.json", "facenet_mini.safetensors"),
)
_EVALUATION = ("report.html", "scores.csv", "model_card.md")
_SIGNS = (
    ("manifest.json", rb'"kind": "[a-z]+ set"', _SET),
    (".pack.journal", rb'^\{"align": .*"decoder": "Pillow', _SET),  # begun before there was a marker
    ("log.csv", rb"^epoch,phase,step,lr,train_loss", _RUN),
    ("report.html", rb'<meta name="generator" content="facekit evaluate">', _EVALUATION),
)
_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
_held: set[tuple[str, int]] = set()  # the folders that are written, with the thread that does


def pasted_path(path: str | Path) -> Path:
    """A path as people paste it: in quotes, as `file://…`, with `~`, with blanks escaped. What exists stays."""
    text = os.fspath(path)
    if os.path.lexists(text):
        return Path(text)
    text = re.sub(r"^([\"'“‘«])(.*)[\"'”’»]$", r"\2", text.strip())
    if text.startswith("file:/"):  # as a Path it has lost a slash or two
        text = unquote(re.sub(r"^file:/+(localhost/+)?", "/", text), errors="surrogateescape")
        text = text[1:] if re.match("/[A-Za-z]:", text) else text
    elif os.sep == "/":
        text = re.sub(r"\\([^\w/\\])", r"\1", text)
    return Path(os.path.expanduser(text))


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a new, empty temporary file beside `path`; on success it is fsynced and renamed, on error it is removed.

    A reader therefore sees the old file, the new one or none, never half of one. What killed processes left of writing
    this file is removed. An OSError names `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear(path.parent, [glob.escape(path.name)])
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        # x: never a file that waits there, nor through a link.
        with _named(path, temporary), open(temporary, "xb") as file:
            if sys.platform == "win32":
                file.close()  # an open file cannot be renamed there
            with suppress(OSError, ValueError):
                _lock(file)  # shows that this process lives
            yield temporary
            with open(temporary, "r+b") as written:
                os.fsync(written.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _named(path: Path, instead_of: Path | None = None) -> Iterator[None]:
    """Gives an OSError without a file's name, or with that of another, the name of this one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(instead_of)):
            error.filename = str(path)
        raise


def _clear(folder: Path, names: Sequence[str]) -> None:
    """Removes the temporary files of these names whose writers were killed."""
    for old in folder.glob(".*.part"):
        name = re.fullmatch(r"\.(.+)\.[0-9a-f]+\.part", old.name)
        if name is None or not _is_one_of(names, name[1]) or old.is_symlink():
            continue
        with suppress(OSError):
            if sys.platform == "win32":
                old.unlink()  # fails while it is open
            else:
                with open(os.open(old, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW), "rb") as file:
                    if _lock(file):
                        old.unlink()


def _lock(file: IO) -> bool:
    """Locks an open file until it is closed; False where it is locked already. OSError where there are no locks."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(2**30)  # a byte that nobody reads
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        raise
    return True


@contextmanager
def alone(path: Path, wait: bool = False) -> Iterator[None]:
    """Locks the file at `path`, made where there is none, against all others that ask for it.

    The lock ends with the process, however that ends. wait: until another has left it; else raises OutputError that
    names the folder. It is no lock on file systems that have none.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)

    while True:
        with open(path, "ab", opener=opener) as file:
            free = True
            with suppress(OSError):
                free = _lock(file)
            if not free and not wait:
                raise OutputError(
                    f"{path.parent} is being written by another process; wait until it is done, or choose another "
                    "folder."
                )
            if free and _is_at(file, path):
                yield
                return
        time.sleep(0.1)


def _is_at(file: IO, path: Path) -> bool:
    """Whether an open file has this path still; the process that had it locked may have removed it."""
    try:
        return sys.platform == "win32" or os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


@contextmanager
def writing(folder: Path | str, *names: str, cache: bool = False) -> Iterator[Path]:
    """Yields the folder (made), which inside no other process writes; files of these names are facekit's from then on.

    names: of what will be written, patterns among them (`last-*.pt`). May be nested. cache: a folder of facekit's own,
    in which everything is its own, and where another process does the same work: it is waited for. Raises OutputError,
    with nothing written, where another process writes the folder, and where a link, or a file that facekit did not
    write, has one of the names.
    """
    folder = Path(folder)
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    key = (os.path.realpath(folder), threading.get_ident())
    if not cache:
        refuse_others(folder, names)  # before a file is made there
    with ExitStack() as stack:
        if key not in _held:
            stack.enter_context(alone(folder / MARKER, cache))
            _held.add(key)
            stack.callback(_leave, folder, key, made)
        if not cache:
            refuse_others(folder, names)
        noted = _noted(folder)
        if new := [name for name in names if name not in noted]:
            begun = noted[0] + "\n" == _HEAD
            lines = ["" if begun else _HEAD.strip(), *new, ""]  # it begins with the end of a line that a kill cut
            with _named(folder / MARKER), open(folder / MARKER, "a" if begun else "w", encoding="utf-8") as file:
                file.write("\n".join(lines))
                file.flush()
                os.fsync(file.fileno())
        _clear(folder, names)
        yield folder


def _leave(folder: Path, key: tuple[str, int], made: bool) -> None:
    """Removes the marker where all that was written is known without it, and the folder if it was made for nothing."""
    _held.discard(key)
    with suppress(OSError):
        known = _signed(folder)
        if all(_is_one_of(known, path.name) for path in _present(folder, _noted(folder)[1:])):
            (folder / MARKER).unlink()
            if made:
                folder.rmdir()  # which fails unless it is empty


def _noted(folder: Path) -> list[str]:
    """The names in a folder's marker."""
    with suppress(FileNotFoundError):
        return (folder / MARKER).read_text(encoding="utf-8", errors="replace").split("\n")
    return [""]


def _signed(folder: Path) -> list[str]:
    """The names for which files in a folder speak by their content."""
    found: list[str] = []
    for name, sign, theirs in _SIGNS:
        if (folder / name).is_file() and re.search(sign, (folder / name).read_bytes()):
            found += theirs
    return found


def _is_one_of(names: Sequence[str], name: str) -> bool:
    return any(fnmatchcase(name, each) for each in names)


def _present(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """What has one of these names in a folder, links that lead nowhere included."""
    for name in filter(None, names):
        found = folder.glob(name) if "*" in name else [folder / name]
        yield from (path for path in found if os.path.lexists(path))


def refuse_others(folder: Path, names: Sequence[str]) -> None:
    """Raises OutputError where something in the folder has one of the names and facekit did not write it."""
    marker = folder / MARKER
    noted = [""] if marker.is_dir() else _noted(folder)
    if not _HEAD.startswith(noted[0]):
        _refuse(marker)
    known = [MARKER, *noted[1:], *_signed(folder)]
    for path in _present(folder, [MARKER, *names]):
        if path.is_symlink() or not path.is_file() or not _is_one_of(known, path.name):
            _refuse(path)


def may_replace(path: Path | str, sign: bytes) -> Path:
    """The path; raises OutputError where there is something that does not hold `sign`, as what facekit writes there."""
    path = Path(path)
    if os.path.lexists(path) and not (path.is_file() and sign in path.read_bytes()):
        _refuse(path)
    return path


def _refuse(path: Path) -> None:
    raise OutputError(
        f"{path} is in the way: facekit did not write it, and replaces only what it wrote. Name another place for the "
        "results, or move it away."
    )


def told(error: OSError, where: Path | str = "") -> str:
    """What went wrong with a file (`where`, if the error names none), in words; a full disk is said to be full."""
    place = error.filename or where
    said = error.strerror or str(error)
    if error.errno in _FULL:
        said = f"the disk is full ({said}); make room there and run the same command again"
    return f"{place}: {said}" if place else said


def write_json(path: Path, value: object) -> None:
    """Writes `value` as indented UTF-8 JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8", "backslashreplace")


def sealed_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """The object as it will be read, with the SHA-256 of all that it says as its last entry, `sha256`."""
    told = json.loads(json.dumps({**value, "sha256": ""}))
    return {**told, "sha256": json_sha256(told)}


def json_sha256(value: Mapping[str, Any]) -> str:
    """Hex SHA-256 of what an object from a JSON file says, apart from its entry `sha256`."""
    return hashlib.sha256(json.dumps({**value, "sha256": ""}).encode()).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(
    path: Path, error: type[FacekitError], remedy: str, fields: Mapping[str, type | UnionType]
) -> dict[str, Any]:
    """The object in a JSON file (UTF-8), which has all of `fields`, each of its type; it may have others.

    Raises FileNotFoundError where there is no file; `error` that says what is wrong and the remedy for all else.
    """
    try:
        value = json.loads(path.read_bytes().decode("utf-8"))
        wrong = wrong_fields(value, fields)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as problem:
        wrong = f"not readable as JSON: {problem}"
    if wrong:
        raise error(f"{path} is damaged ({wrong}); {remedy}")
    return value


def wrong_fields(value: object, fields: Mapping[str, type | UnionType]) -> str:
    """What keeps `value` from being a dict with these fields, each of its type; "" if it is one."""
    if not isinstance(value, dict):
        return f"a {type(value).__name__} instead of an object"
    for name, kind in fields.items():
        if name not in value:
            return f"{name!r} is missing"
        if not isinstance(value[name], kind) or (kind is int and isinstance(value[name], bool)):
            return f"{name!r} is a {type(value[name]).__name__}"
    return ""


def seal(content: bytes) -> bytes:
    """A safetensors file's bytes, with the SHA-256 of all that they say as `sha256` in its metadata."""
    header, tensors = _parts(content)
    header.setdefault("__metadata__", {})["sha256"] = _sha256(header, tensors)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + tensors


def unseal(content: bytes) -> dict[str, str]:
    """The metadata of a safetensors file. Raises ValueError if it is none, or not as `seal` left it.

    A file that was never sealed has no `sha256` in its metadata, and is not checked.
    """
    try:
        header, tensors = _parts(content)
        about = {name: str(value) for name, value in header.get("__metadata__", {}).items()}
    except (AttributeError, RecursionError) as error:
        raise ValueError("it is no safetensors file") from error
    if about.get("sha256", (found := _sha256(header, tensors))) != found:
        raise ValueError("it was changed since it was written")
    return about


def _parts(content: bytes) -> tuple[dict, bytes]:
    """The header and the tensors of a safetensors file."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end].decode()), content[end:]


def _sha256(header: dict, tensors: bytes) -> str:
    metadata = {name: text for name, text in header.get("__metadata__", {}).items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps({**header, "__metadata__": metadata}, sort_keys=True).encode())
    digest.update(tensors)
    return digest.hexdigest()
