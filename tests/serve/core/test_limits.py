"""The budget of memory that clients can make the server hold."""

import os
import resource
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from keras_cnns_serve.core.limits import Budget, Claim, usable_cores, usable_memory
from keras_cnns_serve.errors import InputTooLargeError, QueueFullError

MB = 10**6


def test_a_claim_grows_shrinks_and_ends() -> None:
    budget = Budget(100 * MB)
    with budget.claim(10 * MB) as claim:
        claim.add(20 * MB)
        assert (claim.size, budget.used) == (30 * MB, 30 * MB)
        claim.shrink(5 * MB)
        claim.shrink(9 * MB)  # it is less already
        assert (claim.size, budget.used) == (5 * MB, 5 * MB)
    assert (claim.size, budget.used) == (0, 0)
    claim.release()
    with pytest.raises(QueueFullError, match="the request has ended"):
        claim.add(1)
    assert budget.used == 0


def test_one_owner_can_have_half() -> None:
    budget = Budget(100 * MB)
    claim = budget.claim(40 * MB)
    with pytest.raises(InputTooLargeError, match=r"needs about 51 MB .* 50 MB, half of --memory-"):
        claim.add(11 * MB)
    assert claim.size == budget.used == 40 * MB
    claim.add(10 * MB)


def test_large_claims_leave_room_for_small_ones() -> None:
    budget = Budget(100 * MB)
    claims: list[Claim] = []
    for size, fitting in [(32 * MB, 2), (16 * MB, 1), (8 * MB, 1), (MB, 10), (MB // 100, 100)]:
        for _ in range(fitting):
            claims.append(budget.claim(size))
        if size > MB:
            with pytest.raises(QueueFullError, match="of the 100 MB of memory"):
                budget.claim(size)
    assert budget.used < budget.limit
    for claim in claims:
        claim.release()
    assert budget.used == 0


def test_a_thread_waits_for_memory() -> None:
    budget = Budget(100 * MB)
    first, second = budget.claim(40 * MB), Claim(budget)
    with pytest.raises(QueueFullError):
        second.add(40 * MB, seconds=0.01)
    waiting = threading.Thread(target=second.add, args=(40 * MB, 20.0))
    waiting.start()
    first.release()
    waiting.join(20)
    assert not waiting.is_alive()
    assert budget.used == second.size == 40 * MB


def test_threads_claim_side_by_side() -> None:
    budget = Budget(10**9)

    def work() -> None:
        for _ in range(1000):
            with budget.claim(7) as claim:
                claim.add(5)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert budget.used == 0


MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
CGROUPS = {
    "version 2": ("0::/a/b", {"a/memory.max": "300000", "a/b/memory.max": "max"}, 300_000),
    "the innermost": ("0::/a/b", {"a/memory.max": "300000", "a/b/memory.max": "200000"}, 200_000),
    "a container": ("0::/host/path", {"memory.max": "100000"}, 100_000),
    "version 1": (
        "5:cpu:/x\n4:memory:/a",
        {"memory/a/memory.limit_in_bytes": "400000", "x/memory.max": "1"},
        400_000,
    ),
    "no limit": ("0::/a", {"a/memory.max": "max", "memory.max": "9223372036854771712"}, MACHINE),
    "none": ("", {}, MACHINE),
}


def write_cgroups(root: Path, groups: str, files: Mapping[str, str]) -> None:
    for path, text in {
        "proc/self/cgroup": f"{groups}\n" if groups else "",
        **{f"sys/fs/cgroup/{path}": f"{text}\n" for path, text in files.items()},
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


@pytest.mark.parametrize("name", CGROUPS)
def test_the_memory_of_a_cgroup_is_known(tmp_path: Path, name: str) -> None:
    groups, files, expected = CGROUPS[name]
    write_cgroups(tmp_path, groups, files)
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        expected = min(expected, limit)
    assert usable_memory(tmp_path) == expected


QUOTAS = {
    "version 2": ("0::/a/b", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3),
    "the innermost": ("0::/a/b", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "50000 25000"}, 2),
    "a container": ("0::/host/path", {"cpu.max": "250000 100000"}, 2),
    "less than a core": ("0::/a", {"a/cpu.max": "50000 100000"}, 1),
    "more than there are": ("0::/a", {"a/cpu.max": "9900000 100000"}, 4),
    "version 1": (
        "5:cpu,cpuacct:/x",
        {"cpu/x/cpu.cfs_quota_us": "300000", "cpu/x/cpu.cfs_period_us": "100000"},
        3,
    ),
    "version 1 without a quota": (
        "5:cpu,cpuacct:/x",
        {"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100000"},
        4,
    ),
    "damaged": ("0::/a", {"a/cpu.max": "300000"}, 4),
    "none": ("", {}, 4),
}


@pytest.mark.parametrize("name", QUOTAS)
def test_the_quota_of_a_cgroup_limits_the_cores(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups, files, expected = QUOTAS[name]
    write_cgroups(tmp_path, groups, files)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    assert usable_cores(tmp_path) == expected
