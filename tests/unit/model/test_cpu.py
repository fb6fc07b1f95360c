"""How many CPUs a process was given, by its container and its machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from recast_model.cpu import cpu_quota, given_cpus


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "0", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
    ids=["v2", "v2 unlimited", "v1", "v1 zero", "v1 unlimited", "none"],
)
def test_the_cpu_quota_comes_from_the_cgroup(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_quota(tmp_path) == quota


@pytest.mark.parametrize(("quota", "given"), [("max 100000", 4.0), ("150000 100000", 1.5), ("900000 100000", 4.0)])
def test_no_more_is_given_than_there_is(
    quota: str, given: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)))
    assert given_cpus(tmp_path) == given
