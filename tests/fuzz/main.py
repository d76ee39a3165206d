"""`make fuzz`: thousands of requests that nobody would send, against a server of our own; its last line is the result.

python -m tests.fuzz.main --cases 2000 --seed 1
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.fuzz.campaign import Result, campaign
from tests.fuzz.server import running_server

__all__ = ["main"]

_MOST_GROWTH = 100_000_000
_SHOWN = 20


def main(arguments: list[str] | None = None) -> int:
    """Runs a campaign; the exit status is 0 when nothing was found.

    Args:
        arguments: of the command line.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1500.0, help="begin no case later than this")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="seqae-fuzz-") as folder, running_server(Path(folder)) as server:
        result = campaign(server, given.cases, given.seed, given.seconds)
        _show(result, server.log)
    print(result.last_line)
    whole = result.cases == given.cases and result.survived
    return 0 if whole and not result.failures and not result.tracebacks and result.growth < _MOST_GROWTH else 1


def _show(result: Result, log: Path) -> None:
    kinds = sorted({kind for kind, _ in result.statuses})
    for kind in kinds:
        of_kind = {status: number for (name, status), number in result.statuses.items() if name == kind}
        counts = ", ".join(f"{status or 'closed'} x {number}" for status, number in sorted(of_kind.items(), key=str))
        print(f"{kind}: {counts}")
    print(f"slowest answer: {result.slowest:.2f} s")
    print("memory over time: " + ", ".join(f"{size / 1_000_000:.0f}" for size in result.memory) + " MB")
    for kind, outcome in result.failures[:_SHOWN]:
        print(
            f"{outcome.verdict} ({kind}, {outcome.status}, {outcome.seconds:.1f} s): {outcome.detail}\n  {outcome.case}"
        )
    for line, number in result.tracebacks.most_common():
        print(f"{number} x in the server's log: {line}")
    if result.tracebacks or not result.survived:
        print(_without_warnings(log.read_text(errors="replace"))[-6000:])


def _without_warnings(log: str) -> str:
    """The log without what odd requests are expected to leave there."""
    return "\n".join(line for line in log.splitlines() if " WARNING " not in line)


if __name__ == "__main__":
    sys.exit(main())
