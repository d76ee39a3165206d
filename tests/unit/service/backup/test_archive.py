"""Archives of backups: what is written is read again, and what nobody wrote so is refused, by name."""

import io
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from service.backup.archive import ArchiveReader, ArchiveWriter, is_safe
from service.backup.records import BackupInfo
from service.errors import BackupError

INFO = BackupInfo(format=1, release="1.2.3", revision="0005", made_at=datetime(2026, 1, 1, tzinfo=UTC), home="/home")
FILES = {"control/jobs.db": b"rows" * 1000, "jobs/job_1/spec.json": b"", "jobs/job_1/" + "x" * 300: b"a long name"}


def archive(files: dict[str, bytes] | None = None) -> bytes:
    file = io.BytesIO()
    writer = ArchiveWriter(file, INFO)
    for name, content in (FILES if files is None else files).items():
        writer.add(name, io.BytesIO(content), len(content))
    writer.close()
    return file.getvalue()


def read(content: bytes) -> dict[str, bytes]:
    reader = ArchiveReader(io.BytesIO(content), len(content))
    return {member.name: b"".join(reader.content(member)) for member in reader.members()}


def refused(content: bytes) -> str:
    with pytest.raises(BackupError) as caught:
        read(content)
    return str(caught.value)


def tar(*members: tarfile.TarInfo, after: str = "control/jobs.db") -> bytes:
    """An archive with foreign members, put before one of its own."""
    whole = archive()
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as output:
        for member in members:
            output.addfile(member, io.BytesIO(bytes(member.size)))
        foreign = made.getvalue()[: output.offset]
    with tarfile.open(fileobj=io.BytesIO(whole)) as own:
        at = own.getmember(after).offset
    return whole[:at] + foreign + whole[at:]


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.size = kind, link, size
    return made


def test_what_was_written_is_read_again() -> None:
    content = archive()
    assert read(content) == FILES
    assert ArchiveReader(io.BytesIO(content), len(content)).info == INFO


def test_any_tar_reads_it() -> None:
    with tarfile.open(fileobj=io.BytesIO(archive())) as found:
        names = found.getnames()
        jobs_db = found.extractfile("control/jobs.db")
        assert jobs_db is not None
        assert jobs_db.read() == FILES["control/jobs.db"]
    assert names == ["backup.json", *FILES, "checksums.json"], "its own record first, checksums last"


def test_a_file_that_is_cut_while_it_is_read_is_filled_up() -> None:
    file = io.BytesIO()
    writer = ArchiveWriter(file, INFO)
    assert not writer.add("control/jobs.db", io.BytesIO(b"abc"), 5)
    writer.close()
    assert read(file.getvalue()) == {"control/jobs.db": b"abc\0\0"}


@pytest.mark.parametrize("name", ["../evil", "jobs/../../evil", "/etc/passwd", "jobs//x", "./jobs", "jobs/.", "a\0b"])
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    assert not is_safe(name)
    if "\0" not in name:
        assert "leads elsewhere" in refused(tar(member(name)))


def test_a_long_name_that_leads_elsewhere_is_refused() -> None:
    assert "leads elsewhere" in refused(tar(member("jobs/" + "y" * 200 + "/../../../evil")))


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a pipe"),
        (tarfile.DIRTYPE, "a folder"),
        (tarfile.GNUTYPE_SPARSE, "a file with holes"),
        (tarfile.XHDTYPE, "a header of another format"),
        (b"Z", "something else"),
    ],
)
def test_what_is_no_plain_file_is_refused(kind: bytes, what: str) -> None:
    said = refused(tar(member("jobs/odd", kind, link="/etc/passwd")))
    assert said == f"the member jobs/odd is no plain file, but {what}"


def test_a_size_that_the_archive_does_not_bear_out_is_refused() -> None:
    """A bomb: a header that promises more than there is."""
    bomb = member("jobs/bomb", size=10**15).tobuf(tarfile.GNU_FORMAT)
    content = archive()
    with tarfile.open(fileobj=io.BytesIO(content)) as own:
        at = own.getmember("control/jobs.db").offset
    assert refused(content[:at] + bomb + content[at:]) == (
        "the member jobs/bomb is cut off: the archive ends before it"
    )


def test_a_name_that_is_there_twice_is_refused() -> None:
    assert "control/jobs.db is there twice" in refused(tar(member("control/jobs.db"), after="checksums.json"))


def test_a_member_that_was_added_or_taken_away_is_noticed() -> None:
    assert "jobs/more is damaged" in refused(tar(member("jobs/more", size=3)))
    content = archive()
    with tarfile.open(fileobj=io.BytesIO(content)) as own:
        first, second = own.getmember("control/jobs.db").offset, own.getmember("jobs/job_1/spec.json").offset
    assert "control/jobs.db is missing" in refused(content[:first] + content[second:])


def test_a_flipped_byte_is_noticed_and_not_quoted() -> None:
    content = archive()
    at = content.index(b"rowsrows")
    said = refused(content[:at] + b"R" + content[at + 1 :])
    assert said == "the member control/jobs.db is damaged: its checksum is not that of the backup"


@pytest.mark.parametrize("share", [0.0, 0.03, 0.2, 0.5, 0.7, 0.85, 0.95])
def test_an_archive_that_was_cut_off_is_noticed(share: float) -> None:
    content = archive()
    whole = len(content.rstrip(b"\0"))
    assert refused(content[: int(share * whole)])


def test_an_archive_that_goes_on_after_its_end_is_refused() -> None:
    assert "goes on after its end" in refused(archive() + b"more")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda _: b"", "at its begin"),
        (lambda _: b"\0" * 10_240, "no backup of seqae"),
        (lambda _: b"PK\x03\x04" + bytes(2000), "at its begin"),
        (lambda content: content[1024:], "no backup of seqae"),
        (lambda content: content.replace(b'"format": 1', b'"format": 0'), "backup.json is damaged: format"),
    ],
)
def test_what_is_no_backup_is_refused(spoil: Callable[[bytes], bytes], said: str) -> None:
    assert said in refused(spoil(archive()))


def test_a_damaged_list_of_checksums_is_noticed() -> None:
    content = archive()
    assert "checksums.json is damaged" in refused(content.replace(b'{"sha256"', b'{"sha257"'))
