"""What a foundation's server will need of memory, and what of it keys and values may have. Pure but for two readers.

==============  ========================================================================================
resident        what the process has once the version is loaded: Python, PyTorch, weights, histories
weights         once more: the next version is loaded beside the one that serves
kept            keys and values of histories
activation      the most that one pass needs
items           reading the file of new items, where there is one
==============  ========================================================================================

Their sum and a fifth of it must fit into the container's limit. A server that would be killed under load by the kernel
refuses to start, and says by how much.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from recast_api.run import RecastError
from recast_model.cpu import CGROUP

MIB = 1 << 20
RESERVE = 1.2
DEFAULT_MIB = 256
"""For keys and values, where nothing is asked and no limit is known."""
DEFAULT_SHARE = 0.5
"""Of what a limit leaves, where nothing is asked."""


def memory_limit(cgroup: Path = CGROUP) -> int | None:
    """Bytes that the cgroup may use, from version 2's ``memory.max`` or version 1's limit; None without a limit."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            limit = int((cgroup / name).read_text())  # version 2 says "max" where there is none
        except (OSError, ValueError):
            continue
        # Version 1 says so with a number that no machine has.
        return limit if limit < 1 << 60 else None
    return None


def resident_bytes(process: Path = Path("/proc/self")) -> int:
    """What this process has in memory."""
    return int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class MemoryPlan:
    """The equation's terms, in bytes."""

    limit: int | None
    resident: int
    weights: int
    activation: int
    kept: int
    items: int = 0

    @property
    def needed(self) -> int:
        """Their sum and a fifth of it."""
        return round(RESERVE * (self.resident + self.weights + self.activation + self.kept + self.items))

    def log_fields(self) -> dict[str, int | None]:
        """In mebibytes, for the log."""
        terms = {"limit": self.limit, "needed": self.needed, "resident": self.resident, "weights": self.weights}
        terms |= {"activation": self.activation, "kvCache": self.kept, "items": self.items}
        return {f"{name}MiB": None if value is None else round(value / MIB) for name, value in terms.items()}


def plan_memory(
    asked_mebibytes: int | None,
    least: int,
    limit: int | None,
    resident: int,
    weights: int,
    activation: int,
    items: int = 0,
) -> MemoryPlan:
    """How much keys and values get: what is asked, or a share of what a limit leaves; at least ``least`` bytes.

    Raises :class:`RecastError` with reason ``MemoryTooSmall`` where that does not fit into the limit.
    """
    if asked_mebibytes is not None:
        kept = asked_mebibytes * MIB
    elif limit is None:
        kept = DEFAULT_MIB * MIB
    else:
        left = limit / RESERVE - resident - weights - activation - items
        kept = min(DEFAULT_MIB * MIB, int(DEFAULT_SHARE * left))
    plan = MemoryPlan(limit, resident, weights, activation, max(kept, least), items)
    if limit is not None and plan.needed > limit:
        terms = ", ".join(f"{name} {value}" for name, value in plan.log_fields().items())
        raise RecastError(
            "MemoryTooSmall",
            f"the foundation needs {-(-plan.needed // MIB)} MiB, more than the container's limit ({terms}): raise"
            " spec.serving.resources.limits.memory, or lower kvCacheMebibytes",
        )
    return plan
