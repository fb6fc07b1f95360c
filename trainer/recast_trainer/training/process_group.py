"""The processes of one run as a group that shares work and gathers results; one process alone is a group of one.

torchrun sets the environment. Only tensors travel, never pickled objects. Sums of gradients and the exchange of table
rows are in :mod:`recast_model.distributed`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from recast_model.cpu import CGROUP, cpu_quota, given_cpus
from recast_model.distributed import gather_rows

CPU = torch.device("cpu")
PEER_TIMEOUT = timedelta(seconds=300)


@dataclass(frozen=True)
class ProcessGroup:
    """This process's place among the run's processes."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    @property
    def is_leader(self) -> bool:
        """Whether this process writes what is shared: artefact, log, checkpoint, version."""
        return self.rank == 0

    def shard(self, things: NDArray[np.int64]) -> NDArray[np.int64]:
        """This process's contiguous part; parts differ by at most one in length."""
        return things[len(things) * self.rank // self.size : len(things) * (self.rank + 1) // self.size]

    def gather(self, index: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """All processes' ``index`` (K,) int64 and ``rows`` (K, D) joined in rank order; K may differ."""
        if self.size == 1:
            return index, rows
        joined = gather_rows(index.to(self.device), rows.to(self.device))
        return joined[0].cpu(), joined[1].cpu()

    def broadcast(self, data: bytes) -> bytes:
        """The leader's bytes, on every process; what others give does not count."""
        if self.size == 1:
            return data
        size = torch.tensor([len(data)], device=self.device)
        dist.broadcast(size, src=0)
        if not size:
            return b""
        message = torch.zeros(int(size), dtype=torch.uint8, device=self.device)
        if self.is_leader:
            message.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        dist.broadcast(message, src=0)
        return message.cpu().numpy().tobytes()

    def leaders(self, answer: bool) -> bool:
        """What the leader answers, on every process: no two clocks agree."""
        return self.broadcast(bytes([answer])) == bytes([True])

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()

    def log(self, text: str) -> None:
        """A line for people, once however many processes there are."""
        if self.is_leader:
            print(text, flush=True)


def limit_threads(cgroup: Path = CGROUP) -> None:
    """Give each process of this machine its share of the CPUs, unless ``OMP_NUM_THREADS`` says how many.

    In a pod without a CPU limit it is one thread: threads that wait for each other on a busy node cost tenfold.
    """
    if "OMP_NUM_THREADS" in os.environ:
        return
    shared = "KUBERNETES_SERVICE_HOST" in os.environ and cpu_quota(cgroup) is None
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(1 if shared else max(1, int(given_cpus(cgroup) / processes)))


@contextmanager
def join_process_group() -> Iterator[ProcessGroup]:
    """Join the group that torchrun describes in the environment, and leave it at the end."""
    limit_threads()
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if size == 1:
        yield ProcessGroup(device=device)
        return
    dist.init_process_group("nccl" if cuda else "gloo", timeout=PEER_TIMEOUT)
    try:
        yield ProcessGroup(rank, size, device)
    finally:
        dist.destroy_process_group()
