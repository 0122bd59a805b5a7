"""Files that are either whole or absent, their content hashes, and what they hold once it is sure to be that."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import UnionType
from typing import Any
from urllib.parse import unquote

from facekit.errors import FacekitError


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
    """Yields a temporary path beside `path`; on success it is fsynced and renamed, on error it is removed.

    A reader therefore sees the old file, the new one or none, never half of one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Writes `value` as indented UTF-8 JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8", "backslashreplace")


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
