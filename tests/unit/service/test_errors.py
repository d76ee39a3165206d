"""The tree of errors and its statuses."""

import jobs.errors
import service.errors
from seqae.errors import Error
from service.errors import STATUS


def tree(root: type[Error]) -> set[type[Error]]:
    return {root}.union(*(tree(kind) for kind in root.__subclasses__()))


def test_every_class_has_exactly_one_status() -> None:
    known = {kind for kind in tree(Error) if kind.__module__.partition(".")[0] in ("seqae", "jobs", "service")}
    assert {jobs.errors.NoModel, service.errors.ConflictError} <= known
    assert known == set(STATUS)


def test_only_what_can_be_tried_again_or_is_a_bug_is_a_5xx() -> None:
    assert {status for status in STATUS.values() if status >= 500} == {500, 503}
    assert all(400 <= status <= 429 for status in STATUS.values() if status < 500)
