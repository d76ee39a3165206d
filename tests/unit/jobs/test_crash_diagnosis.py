import pytest

from jobs.crash_diagnosis import explain
from jobs.errors import ErrorClass

TRACE = "Traceback (most recent call last):\n  File x, line 1\n{}\n"


@pytest.mark.parametrize(
    ("text", "expected", "said"),
    [
        ("", ErrorClass.INFRASTRUCTURE, "killed"),
        ("epoch 1\nepoch 2\n", ErrorClass.INFRASTRUCTURE, "killed"),
        (TRACE.format("OSError: [Errno 28] No space left on device"), ErrorClass.DISK_FULL, "No space left"),
        (TRACE.format("torch.OutOfMemoryError: CUDA out of memory"), ErrorClass.OUT_OF_MEMORY, "CUDA"),
        (TRACE.format("ray.exceptions.ActorDiedError: gone"), ErrorClass.INFRASTRUCTURE, "ActorDied"),
        (TRACE.format("ModuleNotFoundError: No module named 'jobs'"), ErrorClass.INTERNAL, "No module named"),
        (TRACE.format("KeyError: 'x'"), ErrorClass.INTERNAL, "KeyError"),
        (TRACE.format("seqae.errors.DataError: none"), ErrorClass.INTERNAL, "DataError"),
        ("train.py: error: unrecognized arguments: --x\n", ErrorClass.INTERNAL, "unrecognized"),
        (TRACE.format("DistBackendError: [gloo] Connection closed by peer"), ErrorClass.INFRASTRUCTURE, "closed"),
        (TRACE.format("KeyError: 'x'") + "starting the workers again\n", ErrorClass.INFRASTRUCTURE, "killed"),
    ],
)
def test_last_words(text: str, expected: ErrorClass, said: str) -> None:
    failure = explain(text)
    assert failure.error_class is expected
    assert said in failure.message


def test_only_the_last_words_count() -> None:
    text = TRACE.format("KeyError: 'x'") + "training goes on\n" * 300
    assert explain(text).error_class is ErrorClass.INFRASTRUCTURE
