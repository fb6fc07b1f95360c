"""How many CPUs this process was given: PyTorch counts the machine's, not the container's."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def cpu_quota(cgroup: Path = CGROUP) -> float | None:
    """CPUs that the cgroup may use, from version 2's ``cpu.max`` or version 1's quota; None without a limit."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        quota_microseconds = int((cgroup / "cpu" / "cpu.cfs_quota_us").read_text())
        period_microseconds = int((cgroup / "cpu" / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return quota_microseconds / period_microseconds if quota_microseconds > 0 else None


def given_cpus(cgroup: Path = CGROUP) -> float:
    """The quota where there is one, and never more than the CPUs of the affinity mask."""
    available = len(os.sched_getaffinity(0))
    quota = cpu_quota(cgroup)
    return float(available) if quota is None else min(quota, available)
