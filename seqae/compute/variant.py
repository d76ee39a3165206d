"""Choice of arithmetic and compilation by measurement, for `precision: auto` and `compile: auto`."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from seqae.config import ScheduleConfig

__all__ = ["Compilation", "Precision", "Variant", "choose_compilation", "choose_precision", "given_variant"]

Precision = Literal["float32", "bfloat16"]
Compilation = Literal["off", "default", "reduce-overhead"]

_LEAST_ITERATIONS = 1000
"""A run of fewer does not repay a measurement, which takes the time of a dozen."""

_WORTH_IT = 0.9
"""bfloat16 is taken if a step takes no more than this share of float32's time: it also rounds."""

_COMPILE_SECONDS = 75.0
"""About what torch.compile takes for one T; the default step took 72 s on two cores."""

_COMPILE_SAVES = 0.15
"""About what a compiled step saves; the default one saved 17 to 22 percent."""

_TURNS = 4


@dataclass(frozen=True)
class Variant:
    """How a run computes its steps."""

    precision: Precision
    compile: Compilation
    reason: str
    """Why, in words; empty where the config says it."""

    def __str__(self) -> str:
        compiled = "not compiled" if self.compile == "off" else f"compiled ({self.compile})"
        return f"{self.precision}, {compiled}" + (f": {self.reason}" if self.reason else "")


def given_variant(schedule: ScheduleConfig) -> Variant:
    """What the config asks for; "auto" counts as float32 and as not compiled."""
    precision: Precision = "float32" if schedule.precision == "auto" else schedule.precision
    return Variant(precision, "off" if schedule.compile == "auto" else schedule.compile, "")


def choose_precision(step: Callable[[Precision], object], iterations: int) -> tuple[Precision, str, float | None]:
    """Times steps of both kinds in turns.

    Args:
        step: computes a step, forward and backward, and waits for its end.
        iterations: of the run that are left.

    Returns:
        The faster kind, the reason in words, and the seconds of a step of it; None where nothing was measured.
    """
    if iterations < _LEAST_ITERATIONS:
        return "float32", f"{iterations} iterations do not repay a measurement", None
    best: dict[Precision, float] = {"float32": float("inf"), "bfloat16": float("inf")}
    for turn in range(_TURNS + 1):
        for precision in best:
            seconds = _seconds(lambda precision=precision: step(precision))  # type: ignore[misc]
            if turn > 0:  # the first makes the libraries' plans
                best[precision] = min(best[precision], seconds)
    chosen: Precision = "bfloat16" if best["bfloat16"] <= _WORTH_IT * best["float32"] else "float32"
    reason = f"a step took {best['float32'] * 1e3:.0f} ms in float32 and {best['bfloat16'] * 1e3:.0f} ms in bfloat16"
    return chosen, reason, best[chosen]


def choose_compilation(
    seconds: float | None, iterations: int, compilations: int, device: str, has_compiler: Callable[[], bool]
) -> tuple[Compilation, str]:
    """Whether the rest of a run repays the time to compile its step.

    Args:
        seconds: of a step that is not compiled; None where it was not measured.
        iterations: of the run that are left.
        compilations: values of T that it goes through; each is compiled.
        device: its kind, as torch names it.
        has_compiler: whether torch.compile can work here; asked last, since it takes seconds.

    Returns:
        The mode of torch.compile, or "off"; and the reason in words.
    """
    if seconds is None:
        return "off", f"{iterations} iterations do not repay compiling"
    saved, spent = _COMPILE_SAVES * seconds * iterations, _COMPILE_SECONDS * compilations
    compared = f"compiling takes about {spent:.0f} s and saves about {saved:.0f} s"
    if saved < 2 * spent:  # both are estimates
        return "off", compared
    if not has_compiler():
        return "off", "there is no C++ compiler"
    return "reduce-overhead" if device == "cuda" else "default", compared


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
