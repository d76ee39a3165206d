"""Archive of a backup: a plain tar whose members are regular files alone, the last one with the checksums of all.

It is written by Python's tarfile a header at a time, and any `tar` reads it. On reading, headers are taken one by one:
a link, a folder, a device or a sparse file is refused before anything of it is made, and no size is believed that the
archive's own bytes don't bear out.
"""

import hashlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

from pydantic import ValidationError

from service.backup.records import CHECKSUMS, INFO, BackupInfo, Checksums
from service.errors import BackupError

__all__ = ["ArchiveReader", "ArchiveWriter", "Member", "is_safe", "shown"]

_BLOCK = tarfile.BLOCKSIZE
_CHUNK = 1 << 20
_LONGEST_NAME = 4096
_LARGEST_INFO = 100_000
_LARGEST_CHECKSUMS = 1_000_000_000
_LARGEST_END = 100 * tarfile.RECORDSIZE
"""Zeros that a program may put behind the last member."""

_ENCODING, _ERRORS = "utf-8", "surrogateescape"


class ArchiveWriter:
    """Writes an archive, member by member.

    Args:
        file: open for writing, empty.
        info: its first member.
    """

    def __init__(self, file: BinaryIO, info: BackupInfo) -> None:
        self._file = file
        self._hashes: dict[str, str] = {}
        self.bytes = 0
        """Of the members so far."""
        self.add_bytes(INFO, info.model_dump_json(indent=2).encode())

    @property
    def files(self) -> int:
        """How many members there are so far."""
        return len(self._hashes)

    def add_bytes(self, name: str, content: bytes, modified: float = 0.0) -> None:
        """Adds a member with a content that is at hand."""
        digest = self._begin(name, len(content), modified)
        self._put(digest, content)
        self._end(name, digest, len(content))

    def add(self, name: str, source: BinaryIO, size: int, modified: float = 0.0) -> bool:
        """Adds the next bytes of a file as a member.

        Args:
            name: path of the member.
            source: where it is read from.
            size: how many bytes are taken.
            modified: when it was last changed, seconds since 1970.

        Returns:
            Whether the file had so many; the rest is zeros where not.
        """
        digest, left, is_whole = self._begin(name, size, modified), size, True
        while left:
            part = source.read(min(_CHUNK, left))
            if not part:
                # It was cut while it was read; what was promised in the header has to come.
                part, is_whole = bytes(min(_CHUNK, left)), False
            self._put(digest, part)
            left -= len(part)
        self._end(name, digest, size)
        return is_whole

    def close(self) -> None:
        """Adds the checksums and the end of the archive."""
        content = Checksums(sha256=self._hashes).model_dump_json().encode()
        self.add_bytes(CHECKSUMS, content)
        self._file.write(bytes(2 * _BLOCK))

    def _begin(self, name: str, size: int, modified: float) -> "hashlib._Hash":
        if name in self._hashes:
            raise BackupError(f"{name} is in the archive already")
        header = tarfile.TarInfo(name)
        header.size, header.mtime, header.mode = size, int(modified), 0o600
        # GNU's format has room for any size and, in a member before it, for any length of name.
        self._file.write(header.tobuf(tarfile.GNU_FORMAT, _ENCODING, _ERRORS))
        return hashlib.sha256()

    def _put(self, digest: "hashlib._Hash", part: bytes) -> None:
        digest.update(part)
        self._file.write(part)

    def _end(self, name: str, digest: "hashlib._Hash", size: int) -> None:
        self._file.write(bytes(-size % _BLOCK))
        self._hashes[name] = digest.hexdigest()
        self.bytes += size


@dataclass(frozen=True)
class Member:
    """A file in an archive."""

    name: str
    """Its path, relative, without `..`."""
    size: int
    """In bytes."""


class ArchiveReader:
    """Reads an archive from its begin to its end, and checks all of it on the way.

    Args:
        file: open for reading, at its begin.
        size: of the file, in bytes.

    Raises:
        BackupError: it does not begin as a backup does.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = size
        self._hashes: dict[str, str] = {}
        first = self._next()
        if first is None or first.name != INFO or first.size > _LARGEST_INFO:
            raise BackupError(f"this is no backup of seqae: its first member is not {INFO}")
        try:
            self.info = BackupInfo.model_validate_json(b"".join(self.content(first)))
        except ValidationError as error:
            fields = ", ".join(".".join(map(str, problem["loc"])) or "it" for problem in error.errors())
            raise BackupError(f"{INFO} is damaged: {fields}") from error

    def members(self) -> Iterator[Member]:
        """The other files, in their order. The content of each must be read before the next one is asked for.

        Raises:
            BackupError: naming the member that is damaged, cut off, of a forbidden kind, or has a forbidden name; or,
                at the end, the first one whose checksum is another.
        """
        while (member := self._next()) is not None:
            if member.name == CHECKSUMS:
                self._check(member)
                return
            yield member
        raise BackupError(f"the archive is cut off: it has no {CHECKSUMS}, which is its last member")

    def content(self, member: Member) -> Iterator[bytes]:
        """The bytes of the member that was given last, in parts. Raises: BackupError: the archive ends before them."""
        digest, left = hashlib.sha256(), member.size
        while left:
            part = self._read(min(_CHUNK, left), member.name)
            digest.update(part)
            left -= len(part)
            yield part
        self._read(-member.size % _BLOCK, member.name)
        self._hashes[member.name] = digest.hexdigest()

    def _next(self) -> Member | None:
        header = self._header()
        if header is None:
            return None
        if header.type == tarfile.GNUTYPE_LONGNAME:
            if not 0 < header.size <= _LONGEST_NAME:
                raise BackupError("a member's name is too long")
            long = self._read(header.size + -header.size % _BLOCK, "a member's name")[: header.size]
            name = long.rstrip(b"\0").decode(_ENCODING, _ERRORS)
            header = self._header()
            if header is None:
                raise BackupError("the archive is cut off after a member's name")
            header.name = name
        name = shown(header.name)
        if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise BackupError(f"the member {name} is no plain file, but {_KINDS.get(header.type, 'something else')}")
        if not is_safe(header.name):
            raise BackupError(f"the member {name} has a path that leads elsewhere")
        if header.name in self._hashes:
            raise BackupError(f"the member {name} is there twice")
        if not 0 <= header.size <= self._left:
            raise BackupError(f"the member {name} is cut off: the archive ends before it")
        return Member(header.name, header.size)

    def _header(self) -> tarfile.TarInfo | None:
        """The next header; None at the end of the archive."""
        block = self._read(min(_BLOCK, self._left), "a header")
        try:
            return tarfile.TarInfo.frombuf(block, _ENCODING, _ERRORS)
        except tarfile.HeaderError as error:
            if block and not block.strip(b"\0"):
                return None
            last = next(reversed(self._hashes), "")
            where = f"after the member {shown(last)}" if last else "at its begin"
            raise BackupError(f"the archive is cut off or damaged {where}") from error

    def _read(self, size: int, name: str) -> bytes:
        part = self._file.read(size)
        self._left -= len(part)
        if len(part) != size:
            raise BackupError(f"the archive is cut off in {shown(name)}")
        return part

    def _check(self, member: Member) -> None:
        if member.size > _LARGEST_CHECKSUMS:
            raise BackupError(f"{CHECKSUMS} is too large")
        try:
            known = Checksums.model_validate_json(b"".join(self.content(member))).sha256
        except ValidationError as error:
            raise BackupError(f"{CHECKSUMS} is damaged") from error
        del self._hashes[CHECKSUMS]
        for name, digest in self._hashes.items():
            if known.get(name) != digest:
                raise BackupError(f"the member {shown(name)} is damaged: its checksum is not that of the backup")
        if missing := known.keys() - self._hashes.keys():
            raise BackupError(f"the member {shown(min(missing))} is missing")
        if self._left > _LARGEST_END or self._read(self._left, "its end").strip(b"\0"):
            raise BackupError("the archive goes on after its end")


_KINDS = {
    tarfile.LNKTYPE: "a link",
    tarfile.SYMTYPE: "a link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.DIRTYPE: "a folder",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a file with holes",
    tarfile.XHDTYPE: "a header of another format",
    tarfile.XGLTYPE: "a header of another format",
}


def is_safe(name: str) -> bool:
    """Whether a member's name is a relative path in UTF-8 that stays below where it is put, on any system of ours."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return (
        name == str(PurePosixPath(name))
        and not name.startswith("/")
        and "\0" not in name
        and not {"..", "."} & set(name.split("/"))
        and len(name) < _LONGEST_NAME
    )


def shown(name: str) -> str:
    """A name for people, in a line: another's archive may have anything in it."""
    printable = "".join(letter if letter.isprintable() else "?" for letter in name[:300])
    return printable or "without a name"
