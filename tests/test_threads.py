"""Processors by affinity and control groups; work in threads whose results come in order, in bounded memory."""

import threading

import pytest

from ahs_seg_jax import threads


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def groups(tmp_path):
    """The list of a process's groups, and where they are mounted."""
    return tmp_path / "list", tmp_path / "mounted"


def test_quota_of_version_two_is_the_least_of_all_groups_around(groups):
    given, root = groups
    write(given, "0::/batch/job\n")
    assert threads.quota(given, root) > 1000
    write(root / "batch" / "job" / "cpu.max", "max 100000\n")
    assert threads.quota(given, root) > 1000
    write(root / "batch" / "cpu.max", "350000 100000\n")
    assert threads.quota(given, root) == 4  # of three and a half
    write(root / "batch" / "job" / "cpu.max", "30000 100000\n")
    assert threads.quota(given, root) == 1


@pytest.mark.parametrize("mount", ["cpu,cpuacct", "cpu"])
def test_quota_of_version_one(groups, mount):
    given, root = groups
    write(given, "9:name=systemd:/\n4:memory:/docker/1\n3:cpuset:/x\n1:cpu,cpuacct:/docker/1\n")
    write(root / "memory" / "docker" / "1" / "cpu.max", "1 1\n")  # of another kind
    folder = root / mount / "docker" / "1"
    write(folder / "cpu.cfs_period_us", "100000\n")
    write(folder / "cpu.cfs_quota_us", "-1\n")
    assert threads.quota(given, root) > 1000
    write(folder / "cpu.cfs_quota_us", "700000\n")
    assert threads.quota(given, root) == 7
    write(folder / "cpu.cfs_quota_us", "what\n")
    assert threads.quota(given, root) > 1000


def test_cores_are_those_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: set(range(13)), raising=False)
    monkeypatch.setattr(threads, "_quota", lambda: 1000)
    assert threads.cores() == 13
    monkeypatch.setattr(threads, "_quota", lambda: 5)
    assert threads.cores() == 5
    monkeypatch.delattr(threads.os, "sched_getaffinity")
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 3)
    assert threads.cores() == 3


@pytest.mark.parametrize(("count", "ahead"), [(1, None), (3, None), (2, 7), (2, 0)])
def test_results_come_in_the_order_of_the_items(count, ahead):
    later = threading.Event()

    def work(item):
        if item == 0 and count > 1 and ahead != 0:
            assert later.wait(10), "the items behind the first one did not start"
        if item == 1:
            later.set()
        return item * item

    assert list(threads.in_order(work, range(11), count, ahead=ahead)) == [i * i for i in range(11)]


def test_few_items_are_under_way():
    begun, most = [], []
    found = threads.in_order(begun.append, range(20), 2)
    for number, _ in enumerate(found):
        most.append(len(begun) - number - 1)
    assert len(begun) == 20
    assert max(most) <= 2


def test_a_stage_works_while_the_next_item_is_awaited():
    written = threading.Event()

    def items():
        yield "first"
        assert written.wait(10), "the first one was not written while the second one was made"
        yield "second"

    write = lambda item: written.set() or item
    assert list(threads.in_order(write, items(), 1)) == ["first", "second"]


def test_large_items_go_one_after_the_other():
    under_way, lock, most = [], threading.Lock(), []

    def work(item):
        with lock:
            under_way.append(item)
            most.append(sum(under_way))
        with lock:
            under_way.remove(item)
        return item

    def items():
        for item in (1, 1, 9, 9, 1):
            pulled.append(item)
            yield item

    pulled = []
    found = threads.in_order(work, items(), 4, size=float, most=8)
    assert next(found) == 1
    assert pulled == [1, 1, 9]  # what is large is awaited before another is pulled
    assert [next(found), next(found)] == [1, 9]
    assert pulled == [1, 1, 9]
    assert list(found) == [9, 1]
    assert max(most) <= 11


def test_errors_come_after_the_results_before_them():
    def items():
        yield from (3, 2)
        raise KeyboardInterrupt

    found, seen = threads.in_order(lambda item: item + 1, items(), 4), []
    with pytest.raises(KeyboardInterrupt):
        seen.extend(found)
    assert seen == [4, 3]

    found, seen = threads.in_order(lambda item: 6 // item, (2, 3, 0, 1), 4), []
    with pytest.raises(ZeroDivisionError):
        seen.extend(found)
    assert seen == [3, 2]


def test_a_closed_iterator_drops_what_waits():
    begun, go = [], threading.Event()

    def work(item):
        begun.append(item)
        if item:
            go.wait(10)

    found = threads.in_order(work, range(100), 1, ahead=5)
    next(found)
    go.set()
    found.close()
    assert len(begun) <= 6
