"""The number of cores, as affinity and cgroups limit it, and the instructions of the CPU."""

import os
import platform
import sys
from pathlib import Path

import pytest

from keras_cnns import cores
from keras_cnns.cores import available_cores, has_avx512, has_bfloat16

V1, V2 = "4:memory:/a\n3:cpu,cpuacct:/a/b\n", "0::/a/b\n"


@pytest.mark.parametrize(
    ("cgroup", "files", "cores"),
    [
        (None, {}, 8),
        ("damaged", {}, 8),
        (V2, {}, 8),
        (V2, {"a/b/cpu.max": "250000 100000"}, 2),
        (V2, {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3),
        (V2, {"cpu.max": "50000 100000"}, 1),  # the container's own group is at the top
        (V2, {"a/b/cpu.max": "1600000 100000"}, 8),
        (V2, {"a/b/cpu.max": "nonsense", "cpu/a/b/cpu.max": "100000 100000"}, 8),
        (V1, {"cpu/a/b/cpu.cfs_quota_us": "400000", "cpu/a/b/cpu.cfs_period_us": "100000"}, 4),
        (V1, {"cpu/a/b/cpu.cfs_quota_us": "-1", "cpu/a/b/cpu.cfs_period_us": "100000"}, 8),
        (V1, {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2),
    ],
)
def test_a_quota_limits_the_cores(
    cgroup: str | None,
    files: dict[str, str],
    cores: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    texts = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    if cgroup is not None:
        texts["proc/self/cgroup"] = cgroup
    for name, text in texts.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    assert available_cores(tmp_path) == cores


@pytest.mark.parametrize(
    ("flags", "avx512", "bfloat16"),
    [
        ("fpu sse2 avx2", False, False),
        ("fpu avx2 avx512f avx512bw", True, False),
        ("fpu avx512f avx512_bf16", True, True),
        ("fpu avx512f amx_tile amx_bf16", True, True),
    ],
)
def test_the_instructions_follow_from_the_flags(
    flags: str, avx512: bool, bfloat16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "_cpu_flags", lambda: frozenset(flags.split()))
    assert (has_avx512(), has_bfloat16()) == (avx512, bfloat16)


@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="needs Linux on x86"
)
def test_linux_names_the_instructions() -> None:
    assert {"fpu", "sse2"} <= cores._cpu_flags()
