"""Photos in a folder, a zip or a tar, read one after another into memory; nothing is ever extracted to disk.

A name inside an archive is only ever a label to match and print, never a path to write to, so an archive with `../`
in a name can do no harm; such an entry is still handed on as a problem, because its name cannot be trusted.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import unicodedata
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

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
class Entry:
    """One photo file of a source. name: its path inside, with `/`, Unicode NFC. data: its bytes, None when it was
    skipped or cannot be had; problem: then why."""

    name: str
    data: bytes | None = None
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
    """A place with photos, iterated in an order that is the same every time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def total(self) -> int | None:
        """How many photo files there are, or None where that is only known at the end."""
        return None

    def empty_folders(self) -> list[str]:
        """The innermost folders that hold no photo, as far as the source names folders (tars are not asked)."""
        return []

    @abstractmethod
    def fingerprint(self) -> str:
        """A text that changes when the source does (names, sizes and times; the content is not read)."""

    @abstractmethod
    def entries(self, skip: int = 0, first: Callable[[str], bool] | None = None) -> Iterator[Entry]:
        """The photo files in order; the first `skip` come without data.

        first: names that are to come before the others where the source can be read in any order (not a tar).
        Raises DataError if the archive itself is damaged.
        """

    def names(self, limit: int) -> list[str]:
        """The names of the first `limit` photo files."""
        found: list[str] = []
        for entry in self.entries(skip=limit):
            found.append(entry.name)
            if len(found) == limit:
                break
        return found


def _checked(name: str, skipped: bool, size: int, read: Callable[[], bytes]) -> Entry:
    """An entry after the checks that all sources share."""
    if not is_safe(name):
        return Entry(name, problem=Problem("unsafe name", "leaves the archive or has control characters"))
    if skipped:
        return Entry(name)
    if size > MAX_FILE_BYTES:
        return Entry(name, problem=Problem("file too large", f"{size} bytes, at most {MAX_FILE_BYTES}"))
    try:
        return Entry(name, read())
    # RuntimeError is zipfile's word for an encrypted member, NotImplementedError for an unknown compression.
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        return Entry(name, problem=Problem("unreadable", f"cannot be read: {error}"))


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


class FolderSource(Source):
    """All photos below a folder, sorted by name; links to folders are not followed."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        found = []
        self._innermost = []
        for folder, folders, files in os.walk(path):
            folders.sort()
            if not folders and folder != os.fspath(path):
                self._innermost.append(clean_name(Path(folder).relative_to(path).as_posix()))
            for file in files:
                full = Path(folder, file)
                name = clean_name(full.relative_to(path).as_posix())
                if is_photo(name) and full.is_file():
                    found.append((name, full))
        self._files = sorted(found)

    @property
    def total(self) -> int:
        return len(self._files)

    def empty_folders(self) -> list[str]:
        full = {name.rpartition("/")[0] for name, _ in self._files}
        return [name for name in self._innermost if name not in full and is_photo(f"{name}/x.jpg")]

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name, full in self._files:
            state = full.stat()
            digest.update(f"{name}\0{state.st_size}\0{state.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def entries(self, skip: int = 0, first: Callable[[str], bool] | None = None) -> Iterator[Entry]:
        files = sorted(self._files, key=lambda file: not first(file[0])) if first else self._files
        for position, (name, full) in enumerate(files):
            try:
                size = full.stat().st_size
            except OSError as error:
                yield Entry(name, problem=Problem("unreadable", f"cannot be read: {error.strerror}"))
                continue
            yield _checked(name, position < skip, size, full.read_bytes)


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


class ZipSource(Source):
    """All photos of a zip, in its own order."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        # Opened once: every further opening would hold another copy of the whole directory.
        self._archive = self._open()
        named = [(_zip_name(member), member) for member in self._archive.infolist() if not member.is_dir()]
        self._members = [(name, member) for name, member in named if is_photo(name)]

    def _open(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, EOFError, ValueError) as error:
            raise DataError(f"{self.path} is no readable zip ({error}); download or copy it again.") from None

    @property
    def total(self) -> int:
        return len(self._members)

    def empty_folders(self) -> list[str]:
        folders = [_zip_name(member) for member in self._archive.infolist() if member.is_dir()]
        held = [name for name, _ in self._members] + folders
        bare = [name for name in folders if not any(other.startswith(name) and other != name for other in held)]
        return [name.rstrip("/") for name in bare if is_photo(f"{name}x.jpg")]

    def fingerprint(self) -> str:
        return archive_fingerprint(self.path)

    def entries(self, skip: int = 0, first: Callable[[str], bool] | None = None) -> Iterator[Entry]:
        members = sorted(self._members, key=lambda item: not first(item[0])) if first else self._members
        for position, (name, member) in enumerate(members):
            yield _checked(name, position < skip, member.file_size, partial(self._archive.read, member))


class TarSource(Source):
    """All photos of a tar, compressed or not, in one sequential pass."""

    def fingerprint(self) -> str:
        return archive_fingerprint(self.path)

    def entries(self, skip: int = 0, first: Callable[[str], bool] | None = None) -> Iterator[Entry]:
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
                        yield Entry(name, problem=Problem("not a plain file", "a link or a device in the archive"))
                    else:
                        # A read error here damages all that follows: it must not be taken for one bad photo.
                        yield self._entry(archive, member, name, position < skip)
                    position += 1
        except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
            raise DataError(
                f"{self.path} is no readable tar, or is damaged after {position} photos ({error}); "
                "download or copy it again."
            ) from None

    @staticmethod
    def _entry(archive: tarfile.TarFile, member: tarfile.TarInfo, name: str, skipped: bool) -> Entry:
        if skipped or not is_safe(name) or member.size > MAX_FILE_BYTES:
            return _checked(name, skipped, member.size, bytes)
        file = archive.extractfile(member)
        return Entry(name, file.read() if file else b"")


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
        archives = [file for file in sorted(path.iterdir()) if file.is_file() and is_archive(file)]
        if source.total == 0 and len(archives) == 1:
            return open_source(archives[0])
        if source.total == 0:
            held = f"{len(archives)} archives; name one of them" if archives else "no photo and no archive"
            raise DataError(f"{path} holds {held} ({', '.join(PHOTO_SUFFIXES)} are read).")
        return source
    if not path.exists():
        raise DataError(f"{path} does not exist; give the folder, zip or tar with the photos.")
    try:
        if path.name.lower().endswith(".zip"):
            return ZipSource(path)
        if path.name.lower().endswith(TAR_SUFFIXES):
            return TarSource(path)
        if zipfile.is_zipfile(path):
            return ZipSource(path)
        if tarfile.is_tarfile(path):
            return TarSource(path)
    except PermissionError:
        raise DataError(f"{path} must not be read by you; change its permissions.") from None
    raise DataError(f"{path} is neither a folder nor a zip nor a tar; give one of these.")
