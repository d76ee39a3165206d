from jobs.directory.records import NoteKind
from jobs.supervision.worker_loads import LoadWatch
from seqae.optimization.progress import WorkerLoad


def loads(*seconds: float, pieces: tuple[int, ...] = (), images: tuple[int, ...] = ()) -> list[WorkerLoad]:
    count = len(seconds)
    return [
        WorkerLoad(*values) for values in zip(images or (10,) * count, seconds, pieces or (1,) * count, strict=True)
    ]


def test_a_worker_that_is_much_slower_for_long_is_named_once_with_its_node_and_ratio() -> None:
    watch = LoadWatch(["a", "b", "c"])
    slow = loads(1.0, 2.2, 1.0)
    assert watch.look(slow) == watch.look(slow) == []
    (remark,) = watch.look(slow)
    assert remark.kind is NoteKind.SLOW_WORKER
    assert remark.text == "worker 1 (b) takes 2.2 times as long as the others for an image; each step waits for it"
    assert watch.look(slow) == []


def test_a_pause_of_a_machine_is_not_slowness() -> None:
    watch = LoadWatch(["a", "b"])
    for found in (loads(1, 9), loads(1, 9), loads(1, 1), loads(1, 9), loads(1, 9)):
        assert watch.look(found) == []


def test_shares_of_other_sizes_are_compared_by_image() -> None:
    watch = LoadWatch(["a", "b", "c"])
    for _ in range(5):
        assert watch.look(loads(1.0, 3.0, 0.5, images=(2, 6, 0))) == []


def test_one_worker_has_none_to_be_compared_with() -> None:
    watch = LoadWatch(["a"])
    assert all(watch.look(loads(5.0)) == [] for _ in range(5))


def test_a_worker_whose_memory_ran_out_is_named_at_each_cut() -> None:
    watch = LoadWatch(["a", "b"], pieces=2)
    assert watch.look(loads(1, 1, pieces=(2, 2))) == []
    (remark,) = watch.look(loads(1, 1, pieces=(2, 4)))
    assert remark.kind is NoteKind.OUT_OF_MEMORY
    assert remark.text.startswith("memory ran out on worker 1 (b): it computes its share of each batch in 4 pieces")
    assert watch.look(loads(1, 1, pieces=(2, 4))) == []
    assert len(watch.look(loads(1, 1, pieces=(4, 8)))) == 2
