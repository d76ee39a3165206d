"""Logs of both formats, read as text."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.crash_diagnosis import explain
from jobs.errors import ErrorClass
from jobs.telemetry.log_records import LogRecordLine
from jobs.telemetry.log_text import LogDecoder, as_text, parse_line

LINE = LogRecordLine(time="2026-01-01T00:00:00.000+00:00", level="INFO", logger="jobs.driver", message="iteration 1 é")
JSON = LINE.model_dump_json(exclude_none=True, ensure_ascii=True)
TEXT = "2026-01-01T00:00:00.000+00:00 INFO jobs.driver: iteration 1 é"
FAILED = LINE.model_copy(
    update={"level": "ERROR", "message": "it failed", "exception": "Traceback (...):\n  File x\nKeyError: 'x'"}
).model_dump_json(exclude_none=True)


def test_json_lines_become_text_and_others_stay() -> None:
    mixed = f'plain\n{JSON}\n{{"not": "ours"}}\n[{JSON}]\r\n{{broken\n{JSON}'
    assert as_text(mixed) == f'plain\n{TEXT}\n{{"not": "ours"}}\n[{JSON}]\r\n{{broken\n{TEXT}'
    assert as_text("") == ""


def test_a_worker_stands_before_its_line_as_ray_prints_it() -> None:
    line = LINE.model_copy(update={"worker": "RayTrainWorker pid=7"}).model_dump_json(exclude_none=True)
    assert as_text(line) == f"(RayTrainWorker pid=7) {TEXT}"


def test_fields_of_a_later_release_are_left_out() -> None:
    assert parse_line(JSON[:-1] + ',"later":{"x":1}}') == LINE


def test_a_line_without_end_is_not_parsed() -> None:
    assert parse_line('{"message":"' + "x" * 10_000_000) is None


@given(st.lists(st.sampled_from([JSON, "plain", "{", "", "{}", "é{", JSON[:20], FAILED]), max_size=8), st.data())
def test_pieces_that_end_anywhere_give_the_same_text(lines: list[str], data: st.DataObject) -> None:
    content = "\n".join(lines).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=6)))
    decoder, ends = LogDecoder(), [0, *cuts, len(content)]
    pieces = [decoder.decode(content[start:end]) for start, end in pairwise(ends)]
    assert b"".join([*pieces, decoder.decode(b"", final=True)]) == as_text(content.decode()).encode()


def test_only_what_may_become_json_is_kept_back() -> None:
    decoder = LogDecoder()
    assert decoder.decode(b"50 %") == b"50 %"
    assert decoder.decode(b" {") == b" {", "in the middle of a line"
    assert decoder.decode(b"\n" + JSON[:9].encode()) == b"\n"
    assert decoder.decode(JSON[9:].encode() + b"\n\xff") == TEXT.encode() + b"\n\xff"
    long = b"\n{" + b"x" * 300_000
    assert decoder.decode(long) == long, "no line grows in memory for ever"


@pytest.mark.parametrize(
    ("log", "expected", "said"),
    [
        (f"{JSON}\n{FAILED}\n", ErrorClass.INTERNAL, "KeyError"),
        (f"{FAILED}\n{JSON}\n", ErrorClass.INFRASTRUCTURE, "killed"),
        (JSON.replace("iteration 1", "ray.exceptions.ActorDiedError: gone"), ErrorClass.INFRASTRUCTURE, "ActorDied"),
        (FAILED.replace("'x'", "[Errno 28] No space left on device"), ErrorClass.DISK_FULL, "No space left"),
        (f"{JSON}\nTraceback:\nModuleNotFoundError: none\n", ErrorClass.INTERNAL, "ModuleNotFound"),
    ],
)
def test_a_driver_that_died_is_diagnosed_in_both_formats(log: str, expected: ErrorClass, said: str) -> None:
    failure = explain(log)
    assert failure.error_class is expected
    assert said in failure.message
    assert '"level"' not in failure.message
