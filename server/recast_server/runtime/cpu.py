"""How many threads a model may use: what the container was given, less one for I/O.

PyTorch counts the machine's cores, not the container's quota; a pod limited to two CPUs on a 64-core node would start
64 threads and be throttled for most of each period.
"""

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


def model_threads(cgroup: Path = CGROUP) -> int:
    """Intra-op threads of the model: the quota (else the CPUs of the affinity mask) less one, at least 1."""
    available = len(os.sched_getaffinity(0))
    quota = cpu_quota(cgroup)
    return max(1, int(available if quota is None else min(quota, available)) - 1)


def limit_threads(count: int) -> None:
    """Sets PyTorch's thread counts for the calling thread, which must be the one that runs the model.

    OpenMP keeps the count per thread, so a call from anywhere else would change nothing.
    """
    import torch

    torch.set_num_threads(count)
    if torch.get_num_interop_threads() != 1:
        torch.set_num_interop_threads(1)
