"""Reading of logs that have lines of text, JSON lines, or both, as text for people."""

from pydantic import ValidationError

from jobs.telemetry.log_records import LogRecordLine

__all__ = ["LogDecoder", "as_text", "parse_line"]

_LONGEST_LINE = 200_000
"""Bytes of a line beyond which it is passed on as it is."""


def parse_line(line: str | bytes) -> LogRecordLine | None:
    """The record in a line of a log; None where it is no JSON line of ours."""
    if line[:1] not in ("{", b"{") or len(line) > _LONGEST_LINE:
        return None
    try:
        return LogRecordLine.model_validate_json(line)
    except ValidationError:
        return None


def as_text(content: str) -> str:
    """A log with its JSON lines as text; other lines stay as they are."""
    return "\n".join(_line_text(line) for line in content.split("\n"))


def _line_text(line: str) -> str:
    body = line.rstrip("\r\n")
    record = parse_line(body)
    return line if record is None else record.text() + line[len(body) :]


class LogDecoder:
    """Incremental form of `as_text`, for a log that comes in pieces which end anywhere.

    A line that may become a JSON line is kept back until it is whole; all else is passed on at once.
    """

    def __init__(self) -> None:
        self._held = b""
        """Begin of a line that may be JSON."""
        self._at_start = True
        """Whether the next byte begins a line."""

    def decode(self, piece: bytes, *, final: bool = False) -> bytes:
        """The text of the next piece.

        Args:
            piece: bytes of the log, where the last piece ended.
            final: none follows: what was kept back is passed on, too.
        """
        *whole, rest = (self._held + piece).split(b"\n")
        self._held = b""
        decoded = [self._decode_line(line + b"\n", final) for line in whole]
        return b"".join([*decoded, self._decode_line(rest, final)] if rest else decoded)

    def _decode_line(self, line: bytes, final: bool) -> bytes:
        is_whole, is_from_start = line.endswith(b"\n"), self._at_start
        if not is_whole and not final and is_from_start and line.startswith(b"{") and len(line) <= _LONGEST_LINE:
            self._held = line
            return b""
        self._at_start = is_whole
        if not is_from_start:
            return line
        return _line_text(line.decode(errors="surrogateescape")).encode(errors="surrogateescape")
