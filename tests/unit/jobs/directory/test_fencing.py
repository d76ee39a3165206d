import threading
from pathlib import Path

from filelock import FileLock

from jobs.directory.fencing import issue_control
from jobs.directory.layout import JobFolder
from jobs.directory.records import Control, Want


def test_an_older_control_does_not_replace_a_newer_one(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "job")
    issue_control(folder, Control(attempt=1))
    issue_control(folder, Control(attempt=1, want=Want.PAUSE))
    assert folder.read_control() == Control(attempt=1, want=Want.PAUSE)
    issue_control(folder, Control(attempt=2))
    issue_control(folder, Control(attempt=1, want=Want.CANCEL))
    assert folder.read_control() == Control(attempt=2)


def test_of_many_controls_at_once_the_newest_stays(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "job")
    numbers = [3, 9, 1, 7, 10, 2, 8, 4, 6, 5]
    threads = [threading.Thread(target=issue_control, args=(folder, Control(attempt=number))) for number in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folder.read_control().attempt == 10


def test_a_damaged_control_is_replaced(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "job")
    issue_control(folder, Control(attempt=1))
    (folder.path / "control.json").write_text("{")
    issue_control(folder, Control(attempt=1, want=Want.CANCEL))
    assert folder.read_control() == Control(attempt=1, want=Want.CANCEL)


def test_a_control_waits_for_the_one_that_is_being_written(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "job")
    issue_control(folder, Control(attempt=1))
    thread = threading.Thread(target=issue_control, args=(folder, Control(attempt=2)))
    with FileLock(folder.path / "control.lock"):
        thread.start()
        thread.join(timeout=0.2)
        assert thread.is_alive()
        folder.write_control(Control(attempt=3))
    thread.join()
    assert folder.read_control() == Control(attempt=3)
