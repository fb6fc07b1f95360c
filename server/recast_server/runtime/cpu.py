"""How many threads a model may use.

=================================  =================================================================================
``OMP_NUM_THREADS`` is set         so many: whoever sets it, in the image for instance, has measured
the container has a CPU limit      the limit less one for I/O (and no more than the CPUs that it may run on), at least 1
neither                            1
=================================  =================================================================================

PyTorch counts the machine's cores. A pod limited to two CPUs on a 64-core node would start 64 threads and be throttled
for most of each period; one without a limit would take a node that it shares: every pod on it would, and threads that
wait for each other at each layer wait for the slowest. One thread is what a pod can count on; replicas scale as well.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from recast_api.run import RecastError
from recast_model.cpu import CGROUP, cpu_quota, given_cpus

THREADS_ENV = "OMP_NUM_THREADS"


def model_threads(cgroup: Path = CGROUP, environment: Mapping[str, str] = os.environ) -> int:
    """Intra-op threads of the model; see the module. Raises ``RecastError`` where the setting is no such number."""
    asked = environment.get(THREADS_ENV)
    if asked is not None:
        if not asked.isdecimal() or int(asked) < 1:
            raise RecastError("InvalidConfig", f"{THREADS_ENV} is {asked!r}: it must be a whole number from 1 on")
        return int(asked)
    return 1 if cpu_quota(cgroup) is None else max(1, int(given_cpus(cgroup)) - 1)


def limit_threads(count: int) -> None:
    """Sets PyTorch's thread counts for the calling thread, which must be the one that runs the model.

    OpenMP keeps the count per thread, so a call from anywhere else would change nothing.
    """
    import torch

    torch.set_num_threads(count)
    if torch.get_num_interop_threads() != 1:
        torch.set_num_interop_threads(1)
