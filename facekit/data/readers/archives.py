"""Photos in a folder, a zip or a tar, read one after another into memory; nothing is ever extracted to disk.

A name inside an archive is only ever a label to match and print, never a path to write to, so an archive with `../`
in a name can do no harm; such an entry is still handed on as a problem, because its name cannot be trusted.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import re
import stat
import sys
import tarfile
import unicodedata
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, Any

from facekit.errors import DataError

# What a person takes for a photo; which of them can be decoded, `decode` says.
PHOTO_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".mpo"),
    *(
        ".heic",
        ".heif",
        ".hif",
        ".avif",
        ".jxl",
        ".jp2",
        ".j2k",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".tga",
        ".psd",
        ".dcm",
    ),
)
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
ARCHIVE_SUFFIXES = (".zip", *TAR_SUFFIXES)
# A photo of 64 megapixels is well below this; an entry above it is a decompression bomb or no photo.
MAX_FILE_BYTES = 256 * 2**20
# What is read through in a compressed tar to get past one entry: a few seconds.
_MAX_PASSED_BYTES = 2**31
# What may stand before an entry's data: names have 4 kB at most, attributes 64 kB each.
_MAX_HEADER_BYTES = 2**20
# Zeros after the end of a tar: the largest block of tar programs. More of them are the rest of a file not yet written.
_MAX_PADDING_BYTES = 2**20


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


# A name may continue after its suffix as downloads leave it: `a.jpg?width=300`, a blank, a carriage return.
_PHOTO = re.compile(rf".*\.({'|'.join(suffix[1:] for suffix in PHOTO_SUFFIXES)})(\?.*|([ .]|%[0-9A-F]{{2}})*)", re.I)
_ARCHIVE = re.compile(r".*\.(zip|7z|rar|tar|tgz|tbz2?|txz|tar\.\w{1,4})", re.I)
_RAW = re.compile(r".*\.(dng|cr2|cr3|nef|arw|orf|raf|rw2|pef|srw)", re.I)
ESCAPED = re.compile("%([01][0-9A-F]|7F|[89A-F][0-9A-F])")  # what `clean_name` makes of _UNPRINTABLE
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def clean_name(name: str) -> str:
    """A file name as it is matched: forward slashes, no leading `./`, Unicode composed (macOS stores it decomposed).

    What no text file can hold or no line can show, bytes that are not UTF-8 and control characters, becomes `%E4`.
    """
    name = unicodedata.normalize("NFC", name).replace("\\", "/")
    while name.startswith("./"):
        name = name[2:]
    return _UNPRINTABLE.sub(_escaped, name)


def _escaped(match: re.Match[str]) -> str:
    byte = "\udc80" <= match[0] <= "\udcff"  # as Python holds a byte of a name that is not UTF-8
    return "".join(f"%{part:02X}" for part in match[0].encode("utf-8", "surrogateescape" if byte else "surrogatepass"))


def is_safe(name: str) -> bool:
    """Whether a cleaned name stays inside its archive: relative, no `..`, no drive letter."""
    return not (name.startswith("/") or ".." in name.split("/") or re.match("[A-Za-z]:", name))


def is_hidden(name: str) -> bool:
    """Whether a cleaned name is not seen by a person: hidden files and folders, and macOS's resource forks."""
    return any(part == "__MACOSX" or (part[:1] == "." and part not in (".", "..")) for part in name.split("/"))


def is_photo(name: str) -> bool:
    """Whether a cleaned name looks like a photo that a person sees."""
    return _PHOTO.fullmatch(name) is not None and not is_hidden(name)


def _refused(name: str) -> Problem | None:
    """The problem of a file that may hold photos and is not opened, by its cleaned name; None for any other file."""
    if _ARCHIVE.fullmatch(name) and not is_hidden(name):
        return Problem("archive inside", "photos in it are not looked for; unpack it first")
    if _RAW.fullmatch(name) and not is_hidden(name):  # most are TIFFs whose first image is a small preview
        return Problem("unreadable", "a camera's raw file; save the photo as JPEG or PNG")
    return None


def _may_be_photos(name: str) -> bool:
    """Whether something that cannot be looked into may be a photo or a folder with photos."""
    return is_photo(name) or (not PurePosixPath(name).suffix and not is_hidden(name))


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
        """The names of the first `limit` photo files that can be read, as far as that is known; by default of all."""
        return [entry.name for entry in islice((e for e in self.entries(sys.maxsize) if not e.problem), limit)]

    def empty_folders(self) -> list[str]:
        """The innermost of `folders` that hold no photo."""
        names = [*(entry.name for entry in self.entries(skip=sys.maxsize)), *self.folders]
        held = {os.fspath(parent) for name in names for parent in PurePosixPath(name).parents}
        return [folder for folder in self.folders if folder not in held and is_photo(f"{folder}/x.jpg")]


def _entry(name: str, skipped: bool, size: int, read: Callable[[], bytes]) -> Sample:
    """An entry after the checks that all sources share; what `read` raises is left to the source."""
    if not is_safe(name):
        return Sample(name, problem=Problem("unsafe name", "it leaves the archive"))
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

    members: name of each, what `read` takes or the problem that is known already, and its size in bytes. read: the
    bytes of a member.
    """

    def __init__(self, path: Path, members: list[tuple[str, Any, int]], read: Callable[[Any], bytes]) -> None:
        super().__init__(path)
        self.members, self._read, self.total = members, read, len(members)

    def entries(self, skip: int = 0, first: Callable[[str], bool] | None = None) -> Iterator[Sample]:
        members = sorted(self.members, key=lambda member: not first(member[0])) if first else self.members
        for position, (name, member, size) in enumerate(members):
            yield self._sample(name, member, size, position < skip)  # not kept while the next is read

    def _sample(self, name: str, member: Any, size: int, skipped: bool) -> Sample:
        if isinstance(member, Problem):
            return Sample(name, problem=member)
        try:
            return _entry(name, skipped, size, partial(self._read, member))
        except Exception as error:  # zipfile and the decompressors raise a dozen kinds
            return Sample(name, problem=Problem("unreadable", f"cannot be read: {_told(error)}"))


def _read(file: IO[bytes], size: int) -> bytes:
    """The next `size` bytes of a file, in pieces where they are many: in one go decompressors hold them thrice."""
    if size <= 2**24:
        return file.read(size)
    held = BytesIO()
    while piece := file.read(min(2**20, size - held.tell())):
        held.write(piece)
    return held.getvalue()


def _told(error: Exception) -> str:
    """The system's or a library's message, without the paths of this machine."""
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


class FolderSource(ListedSource):
    """All photos below a folder, sorted by name; links to folders are followed.

    Each folder is read once, however many links lead to it. What a person sees and cannot be read is a problem: broken
    links, folders and files without permission, paths longer than the system takes, pipes, archives.
    """

    def __init__(self, path: Path) -> None:
        members: list[tuple[str, Any, int]] = []
        innermost: list[str] = []
        seen = {_identity(folder): "" for folder in path.resolve().parents}
        waiting = [(os.fspath(path), "")]
        links: list[tuple[str, str]] = []  # read last: a folder has its own name before that of a link
        while waiting or links:
            place, inside = waiting.pop() if waiting else links.pop(0)
            name = clean_name(inside)
            try:
                identity = _identity(place)
                if identity in seen:
                    where = f"is read as {seen[identity]!r}" if seen[identity] else "has this folder in it"
                    twice = Problem("repeated folder", f"the same folder {where}; copy it if it is to count twice")
                    members.append((name, twice, 0))
                    continue
                seen[identity] = name or "."
                with os.scandir(place) as found:
                    entries = sorted(found, key=lambda entry: entry.name)
            except OSError as error:
                if not inside:
                    raise
                members.append((name, _unreachable(error), 0))
                continue
            inner = []
            for entry in entries:
                below = f"{inside}/{entry.name}" if inside else entry.name
                name = clean_name(below)
                if is_hidden(name):
                    continue
                try:
                    if entry.is_dir():
                        inner.append((entry.is_symlink(), (entry.path, below)))
                    elif problem := _refused(name):
                        members.append((name, problem, 0))
                    elif is_photo(name) or entry.is_symlink():
                        state = entry.stat()
                        if is_photo(name):
                            problem = None if stat.S_ISREG(state.st_mode) else Problem("not a plain file", "a device")
                            members.append((name, problem or entry.path, state.st_size))
                except OSError as error:
                    if _may_be_photos(name):
                        broken = Problem("broken link", "what it leads to is not there; mount or mend it")
                        missing = entry.is_symlink() and isinstance(error, FileNotFoundError)
                        members.append((name, broken if missing else _unreachable(error), 0))
            waiting += [folder for linked, folder in inner if not linked]
            links += [folder for linked, folder in inner if linked]
            if inside and not inner:
                innermost.append(clean_name(inside))
        super().__init__(path, sorted(members, key=lambda member: member[0]), lambda file: Path(file).read_bytes())
        self.folders = sorted(innermost)

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name, full, _ in self.members:
            if not isinstance(full, Problem):
                state = os.stat(full)
                digest.update(f"{name}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
        return digest.hexdigest()


def _identity(folder: str | Path) -> object:
    """What is the same for all the paths to one folder; some file systems number nothing."""
    state = os.stat(folder)
    return (state.st_dev, state.st_ino) if state.st_ino else os.path.realpath(folder)


def _unreachable(error: OSError) -> Problem:
    """The problem of a file or folder that the system does not let be read."""
    remedy = "change its permissions, or move it to where its path is shorter"
    return Problem("unreadable", f"{error.strerror or error}; {remedy}")


def _zip_name(member: zipfile.ZipInfo) -> str:
    """The member's name; zipfile takes names without the UTF-8 flag for cp437, which they rarely are."""
    name = member.filename
    if not member.flag_bits & 0x800 and not name.isascii():
        data = name.encode("cp437")
        for encoding in ("utf-8", "cp949"):
            # Two high bytes in a row: what every Korean name has, and hardly any name of a European Windows.
            if encoding == "utf-8" or re.search(rb"[\xa1-\xfe]{2}", data):
                with suppress(UnicodeError):
                    return clean_name(data.decode(encoding))
    return clean_name(name)


class ZipSource(ListedSource):
    """All photos of a zip, in its own order."""

    def __init__(self, path: Path) -> None:
        try:  # opened once: every further opening would hold another copy of the whole directory
            archive = zipfile.ZipFile(path)
            with open(path, "rb") as file:
                count = zipfile._EndRecData(file)[4]  # type: ignore[attr-defined]
            # A wrong length in one entry can hide all that follow. Some programs count no further than two bytes.
            if (count - len(archive.infolist())) % 2**16:
                raise zipfile.BadZipFile(f"it lists {len(archive.infolist())} of its {count} entries")
            if not all(member.filename for member in archive.infolist()):
                raise zipfile.BadZipFile("an entry has no name")
        except Exception as error:  # a damaged directory can fail in any way
            raise DataError(f"{path} is no readable zip ({_told(error)}); download or copy it again.") from None
        members: list[tuple[str, Any, int]] = []
        folders = []
        for member in archive.infolist():
            name = _zip_name(member)
            if member.is_dir():
                folders.append(name.rstrip("/"))
            elif problem := _refused(name):
                members.append((name, problem, 0))
            elif is_photo(name):
                members.append((name, member, max(member.file_size, member.compress_size)))
            elif differ := _other_name(archive, member):  # it may have been a photo's
                raise DataError(f"{path} is no readable zip ({differ}); download or copy it again.")
        super().__init__(path, members, partial(_zip_bytes, archive))
        self.folders = folders


def _other_name(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> str:
    """What zipfile says where the directory calls a member otherwise than its own header does; else nothing."""
    try:
        archive.open(member).close()
    except Exception as error:  # a member that is no photo may be damaged
        return str(error) if "differ" in str(error) else ""
    return ""


def _zip_bytes(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """A member's bytes, never more than the directory says; zipfile's own `read` first makes all that there are."""
    if member.compress_type not in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with archive.open(member) as file:
            return _read(file, member.file_size)
    packed = copy(member)  # these two are decompressed without a bound by zipfile: only their bytes are taken from it
    packed.compress_type, packed.file_size = zipfile.ZIP_STORED, packed.compress_size
    packed.CRC = None  # type: ignore[assignment]  # not looked at
    data = archive.read(packed)
    form: bz2.BZ2Decompressor | lzma.LZMADecompressor = bz2.BZ2Decompressor()
    if member.compress_type == zipfile.ZIP_LZMA:  # two numbers, the coder's five bytes, the stream
        form = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=MAX_FILE_BYTES)
        data = data[4:9] + b"\xff" * 8 + data[9:]
    held = BytesIO()
    while not form.eof and held.tell() <= member.file_size and (piece := form.decompress(data, 2**20)):
        held.write(piece)
        data = b""
    if zlib.crc32(held.getbuffer()) != member.CRC:
        raise zipfile.BadZipFile("wrong checksum")
    return held.getvalue()


class _Header(tarfile.TarInfo):
    """A header that cannot be read is an error; tarfile takes it for the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Header:
        """The next header; raises ReadError for any that is not whole, EOFHeaderError for a block of zeros."""
        try:
            header = super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # typeshed lists none of these
            raise
        except tarfile.EmptyHeaderError:  # type: ignore[attr-defined]
            raise tarfile.ReadError("it ends without its end mark") from None
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None
        if header.size < 0:  # numbers may be stored with a sign, and tarfile would go back
            raise tarfile.ReadError("an entry of negative size")
        return header

    def _proc_pax(self, tarfile: Any) -> Any:
        """The entry after a block of further fields; tarfile passes over fields that it cannot read."""
        entry = super()._proc_pax(tarfile)  # type: ignore[misc]
        return entry if entry.pax_headers or not self.size else _cut_short()

    def _proc_gnulong(self, tarfile: Any) -> Any:
        """The entry after a block with its long name; a zero in it ends the name for tarfile."""
        entry = super()._proc_gnulong(tarfile)  # type: ignore[misc]
        name = entry.linkname if self.type == b"K" else entry.name
        whole = len(name.encode(tarfile.encoding, tarfile.errors)) + 2 >= self.size  # a zero, and a slash of a folder
        return entry if whole else _cut_short()


def _cut_short() -> None:
    raise tarfile.ReadError("a name that is cut short")


class _Metered:
    """A file for tarfile that gives no more than `left` bytes: what a header may ask for is not to be believed."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.left = file, _MAX_HEADER_BYTES
        self.tell, self.seek = file.tell, file.seek

    def read(self, size: int) -> bytes:
        """The next bytes; raises ReadError where they are too many."""
        data = self.file.read(max(0, min(size, self.left + 1)))
        self.left -= len(data)
        if self.left < 0:
            raise tarfile.ReadError("a header, or what follows the end mark, is larger than any tar program makes it")
        return data


# By how a file begins. Python's own modules compare the checksums, and notice a missing end; tarfile's stream does not.
_DECOMPRESSORS: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
    b"]\0\0": lzma.open,
}


def tar_members(path: Path) -> Iterator[tuple[tarfile.TarInfo, Callable[[], bytes]]]:
    """The entries of a tar, compressed or not, in one pass: the header, and what reads its data while it is current.

    Whatever ends the list early is an error: a damaged header, a missing end mark, data after it, a wrong checksum.
    Raises DataError that says after which entry.
    """
    last, count = "", 0

    @contextmanager
    def told() -> Iterator[None]:
        try:
            yield
        except Exception as error:  # tarfile and the decompressors raise a dozen kinds
            where = f"is damaged after entry {count}, {last!r}" if count else "is no readable tar"
            raise DataError(f"{path} {where} ({_told(error)}); download or copy it again.") from None

    with told(), ExitStack() as stack:
        file: IO[bytes] = stack.enter_context(open(path, "rb"))
        start = file.read(6)
        file.seek(0)
        form = next((form for magic, form in _DECOMPRESSORS.items() if start.startswith(magic)), None)
        metered = _Metered(stack.enter_context(form(file)) if form else file)
        mode = "r|" if form else "r:"  # a file on disk is not read to get past an entry
        archive = stack.enter_context(tarfile.open(fileobj=metered, mode=mode, tarinfo=_Header))  # type: ignore
        while (member := archive.next()) is not None:
            # tarfile remembers every member, which would grow with the archive.
            archive.members = []  # type: ignore[attr-defined]
            if archive.offset <= member.offset:
                raise tarfile.ReadError("an entry that leads back")
            if form and member.size > _MAX_PASSED_BYTES:
                raise tarfile.ReadError(f"the next takes {member.size:,} bytes; unpack it and give the folder")
            metered.left = member.size + _MAX_HEADER_BYTES
            yield member, told()(partial(_tar_bytes, archive, member))
            last, count = clean_name(member.name), count + 1
        metered.left = _MAX_PADDING_BYTES
        while rest := archive.fileobj.read(2**16):  # type: ignore[union-attr]
            if rest.strip(b"\0"):
                raise tarfile.ReadError("its end mark is followed by more")


def _tar_bytes(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """The data of the current entry; raises ReadError where it is larger than a file may be."""
    if member.size > MAX_FILE_BYTES:
        raise tarfile.ReadError(f"{member.name!r} has {member.size} bytes, at most {MAX_FILE_BYTES} are read")
    file = archive.extractfile(member)
    return _read(file, member.size) if file else b""


class TarSource(Source):
    """All photos of a tar, compressed or not, in one sequential pass."""

    def entries(self, skip: int = 0, first: Callable[[str], bool] | None = None) -> Iterator[Sample]:
        position = 0
        # A read error damages all that follows: it must not be taken for one bad photo.
        for member, read in tar_members(self.path):
            name = clean_name(member.name)
            if member.isdir():
                continue
            problem = _refused(name)
            if not problem and not member.isfile() and _may_be_photos(name):
                problem = Problem("not a plain file", "a link or a device in the archive; unpack it, give the folder")
            if not problem and not is_photo(name):
                continue
            yield (
                Sample(name, problem=problem)
                if problem and is_safe(name)
                else _entry(name, position < skip, member.size, read)
            )
            position += 1


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
        if source.names(1):
            return source
        archives = [file for file in sorted(path.iterdir()) if file.is_file() and is_archive(file)]
        if len(archives) == 1:
            return open_source(archives[0])
        held = f"{len(archives)} archives; name one of them" if archives else "no photo and no archive"
        problem = _first_problem(source) or ("" if archives else "; name the folder that they are in")
        raise DataError(f"{path} holds {held}{problem}.")
    if not path.exists():
        raise DataError(f"{path} does not exist; give the folder, zip or tar with the photos.")
    forms = ((".zip", zipfile.is_zipfile, ZipSource), (TAR_SUFFIXES, _is_tar, TarSource))
    try:
        open(path, "rb").close()
        named = [source for suffixes, _, source in forms if path.name.lower().endswith(suffixes)]
        for form in named or [source for _, holds, source in forms if holds(path)]:
            return form(path)
    except PermissionError:
        raise DataError(f"{path} must not be read by you; change its permissions.") from None
    raise DataError(f"{path} is neither a folder nor a zip nor a tar; give one of these.")


def _is_tar(path: Path) -> bool:
    """Whether a file begins as a tar does."""
    try:
        return next(tar_members(path), None) is not None
    except DataError:
        return False


def _first_problem(source: Source) -> str:
    """Why a source has nothing to read: the first thing in it that could not be read, or nothing to say."""
    found = next((entry for entry in source.entries(skip=sys.maxsize) if entry.problem), None)
    return f"; {found.name}: {found.problem.reason}, {found.problem.detail}" if found and found.problem else ""
