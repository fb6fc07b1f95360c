"""How many threads a model may use: what the container was given, less one for I/O.

PyTorch counts the machine's cores, not the container's quota; a pod limited to two CPUs on a 64-core node would start
64 threads and be throttled for most of each period.
"""

from __future__ import annotations

from pathlib import Path

from recast_model.cpu import CGROUP, given_cpus


def model_threads(cgroup: Path = CGROUP) -> int:
    """Intra-op threads of the model: the quota (else the CPUs of the affinity mask) less one, at least 1."""
    return max(1, int(given_cpus(cgroup)) - 1)


def limit_threads(count: int) -> None:
    """Sets PyTorch's thread counts for the calling thread, which must be the one that runs the model.

    OpenMP keeps the count per thread, so a call from anywhere else would change nothing.
    """
    import torch

    torch.set_num_threads(count)
    if torch.get_num_interop_threads() != 1:
        torch.set_num_interop_threads(1)
