"""Photos in a folder, a zip or a tar, read one after another into memory; nothing is ever extracted to disk.

A name inside an archive is only ever a label to match and print, never a path to write to, so an archive with `../`
in a name can do no harm; such an entry is still handed on as a problem, because its name cannot be trusted.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tarfile
import unicodedata
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from facekit.errors import DataError

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
ARCHIVE_SUFFIXES = (".zip", *TAR_SUFFIXES)
# A photo of 64 megapixels is well below this; an entry above it is a decompression bomb or no photo.
MAX_FILE_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Problem:
    """Why a file or a label row is not packed: `reason` is one of a few fixed texts, `detail` says more."""

    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Sample:
    """One photo, as a source gives it or with its labels.

    name: its path inside the source, with `/`, Unicode NFC. data: its bytes, None when it was skipped or cannot be had;
    problem: then why. split: the side it must be on, None to let its content decide.
    """

    name: str
    data: bytes | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    split: str | None = None
    problem: Problem | None = None


def clean_name(name: str) -> str:
    """A file name as it is matched: forward slashes, no leading `./`, Unicode composed (macOS stores it decomposed)."""
    name = unicodedata.normalize("NFC", name).replace("\\", "/")
    while name.startswith("./"):
        name = name[2:]
    return name


def is_safe(name: str) -> bool:
    """Whether a cleaned name stays inside its archive: relative, no `..`, no drive letter, no control character."""
    parts = name.split("/")
    return not (name.startswith("/") or ".." in parts or ":" in parts[0] or any(ord(char) < 32 for char in name))


def is_photo(name: str) -> bool:
    """Whether a cleaned name looks like a photo; hidden files and macOS's resource forks do not."""
    path = PurePosixPath(name)
    hidden = any(part == "__MACOSX" or (part.startswith(".") and part != "..") for part in path.parts)
    return path.suffix.lower() in PHOTO_SUFFIXES and not hidden


class Source(ABC):
    """A place with photos, iterated in an order that is the same every time.

    total: how many photo files there are, None where that is only known at the end. folders: the folders that it names
    (tars are not asked), as far as they may hold no photo.
    """

    total: int | None = None
    folders: Sequence[str] = ()

    def __init__(self, path: Path) -> None:
        self.path = path

    def fingerprint(self) -> str:
        """A text that changes when the source does (names, sizes and times; the content is not read)."""
        return archive_fingerprint(self.path)

    @abstractmethod
    def entries(self, skip: int = 0, first: Callable[[str], bool] | None = None) -> Iterator[Sample]:
        """The photo files in order; the first `skip` come without data.

        first: names that are to come before the others where the source can be read in any order (not a tar).
        Raises DataError if the archive itself is damaged.
        """

    def names(self, limit: int | None = None) -> list[str]:
        """The names of the first `limit` photo files, by default of all."""
        return [entry.name for entry in islice(self.entries(skip=sys.maxsize), limit)]

    def empty_folders(self) -> list[str]:
        """The innermost of `folders` that hold no photo."""
        held = {os.fspath(parent) for name in [*self.names(), *self.folders] for parent in PurePosixPath(name).parents}
        return [folder for folder in self.folders if folder not in held and is_photo(f"{folder}/x.jpg")]


def _entry(name: str, skipped: bool, size: int, read: Callable[[], bytes]) -> Sample:
    """An entry after the checks that all sources share; what `read` raises is left to the source."""
    if not is_safe(name):
        return Sample(name, problem=Problem("unsafe name", "leaves the archive or has control characters"))
    if skipped:
        return Sample(name)
    if size > MAX_FILE_BYTES:
        return Sample(name, problem=Problem("file too large", f"{size} bytes, at most {MAX_FILE_BYTES}"))
    return Sample(name, read())


def archive_fingerprint(path: Path) -> str:
    """Size and hash of both ends: the end of a zip lists every member with its CRC, that of a tar.gz holds a CRC.

    Unlike a time stamp it stays the same when the archive is copied.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        ends = file.read(2**16)
        file.seek(max(0, size - 2**16))
        ends += file.read()
    return f"{size} {hashlib.sha256(ends).hexdigest()}"


class ListedSource(Source):
    """A source whose photos can be read in any order, each by itself: one that cannot be read is one problem.

    members: name of each, what `read` takes, and its size in bytes. read: the bytes of a member.
    """

    def __init__(self, path: Path, members: list[tuple[str, Any, int]], read: Callable[[Any], bytes]) -> None:
        super().__init__(path)
        self.members, self._read, self.total = members, read, len(members)

    def entries(self, skip: int = 0, first: Callable[[str], bool] | None = None) -> Iterator[Sample]:
        members = sorted(self.members, key=lambda member: not first(member[0])) if first else self.members
        for position, (name, member, size) in enumerate(members):
            try:
                entry = _entry(name, position < skip, size, partial(self._read, member))
            # RuntimeError is zipfile's word for an encrypted member, NotImplementedError for an unknown compression.
            except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
                entry = Sample(name, problem=Problem("unreadable", f"cannot be read: {error}"))
            yield entry


class FolderSource(ListedSource):
    """All photos below a folder, sorted by name; links to folders are not followed."""

    def __init__(self, path: Path) -> None:
        members, innermost = [], []
        for folder, inner, files in os.walk(path):
            inner.sort()
            place = Path(folder)
            if not inner and place != path:
                innermost.append(clean_name(place.relative_to(path).as_posix()))
            for file in files:
                name = clean_name((place / file).relative_to(path).as_posix())
                if is_photo(name) and (place / file).is_file():
                    members.append((name, place / file, (place / file).stat().st_size))
        super().__init__(path, sorted(members), Path.read_bytes)
        self.folders = innermost

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name, full, _ in self.members:
            state = full.stat()
            digest.update(f"{name}\0{state.st_size}\0{state.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def _zip_name(member: zipfile.ZipInfo) -> str:
    """The member's name; zipfile takes names without the UTF-8 flag for cp437, which they rarely are."""
    name = member.filename
    if not member.flag_bits & 0x800:
        for encoding in ("utf-8", "cp949"):
            try:
                return clean_name(name.encode("cp437").decode(encoding))
            except UnicodeError:
                continue
    return clean_name(name)


class ZipSource(ListedSource):
    """All photos of a zip, in its own order."""

    def __init__(self, path: Path) -> None:
        try:  # opened once: every further opening would hold another copy of the whole directory
            archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, EOFError, ValueError) as error:
            raise DataError(f"{path} is no readable zip ({error}); download or copy it again.") from None
        named = [(_zip_name(member), member) for member in archive.infolist()]
        photos = [(name, member, member.file_size) for name, member in named if not member.is_dir() and is_photo(name)]
        super().__init__(path, photos, archive.read)
        self.folders = [name.rstrip("/") for name, member in named if member.is_dir()]


class TarSource(Source):
    """All photos of a tar, compressed or not, in one sequential pass."""

    def entries(self, skip: int = 0, first: Callable[[str], bool] | None = None) -> Iterator[Sample]:
        position = 0
        try:
            with tarfile.open(self.path, "r|*") as archive:
                for member in archive:
                    # tarfile remembers every member, which would grow with the archive.
                    archive.members = []  # type: ignore[attr-defined]  # typeshed does not list it
                    name = clean_name(member.name)
                    if member.isdir() or not is_photo(name):
                        continue
                    if is_safe(name) and not member.isfile():
                        yield Sample(name, problem=Problem("not a plain file", "a link or a device in the archive"))
                    else:
                        # A read error here damages all that follows: it must not be taken for one bad photo.
                        yield _entry(name, position < skip, member.size, partial(_tar_bytes, archive, member))
                    position += 1
        except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
            raise DataError(
                f"{self.path} is no readable tar, or is damaged after {position} photos ({error}); "
                "download or copy it again."
            ) from None


def _tar_bytes(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return file.read() if file else b""


def is_archive(path: Path) -> bool:
    """Whether the name says zip or tar."""
    return path.name.lower().endswith(ARCHIVE_SUFFIXES)


def open_source(path: Path) -> Source:
    """The photos at `path`: a folder, a zip or a tar (by name, else by content).

    A folder that holds no photo but exactly one archive stands for that archive. Raises DataError if there is nothing
    at `path`, or nothing that can be read.
    """
    path = Path(path)
    if path.is_dir():
        source = FolderSource(path)
        if source.total:
            return source
        archives = [file for file in sorted(path.iterdir()) if file.is_file() and is_archive(file)]
        if len(archives) == 1:
            return open_source(archives[0])
        held = f"{len(archives)} archives; name one of them" if archives else "no photo and no archive"
        raise DataError(f"{path} holds {held} ({', '.join(PHOTO_SUFFIXES)} are read).")
    if not path.exists():
        raise DataError(f"{path} does not exist; give the folder, zip or tar with the photos.")
    forms = ((".zip", zipfile.is_zipfile, ZipSource), (TAR_SUFFIXES, tarfile.is_tarfile, TarSource))
    try:
        named = [source for suffixes, _, source in forms if path.name.lower().endswith(suffixes)]
        for form in named or [source for _, holds, source in forms if holds(path)]:
            return form(path)
    except PermissionError:
        raise DataError(f"{path} must not be read by you; change its permissions.") from None
    raise DataError(f"{path} is neither a folder nor a zip nor a tar; give one of these.")
