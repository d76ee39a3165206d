import threading
from pathlib import Path

from jobs.directory.fencing import tell
from jobs.directory.layout import JobFolder
from jobs.directory.records import Control, Want


def test_an_outdated_word_does_not_replace_a_newer_one(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "job")
    tell(folder, Control(attempt=1))
    tell(folder, Control(attempt=1, want=Want.PAUSE))
    assert folder.read_control() == Control(attempt=1, want=Want.PAUSE)
    tell(folder, Control(attempt=2))
    tell(folder, Control(attempt=1, want=Want.CANCEL))
    assert folder.read_control() == Control(attempt=2)


def test_of_many_words_at_once_the_newest_stays(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "job")
    numbers = [3, 9, 1, 7, 10, 2, 8, 4, 6, 5]
    threads = [threading.Thread(target=tell, args=(folder, Control(attempt=number))) for number in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folder.read_control().attempt == 10


def test_a_damaged_word_is_replaced(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "job")
    tell(folder, Control(attempt=1))
    (folder.path / "control.json").write_text("{")
    tell(folder, Control(attempt=1, want=Want.CANCEL))
    assert folder.read_control() == Control(attempt=1, want=Want.CANCEL)
