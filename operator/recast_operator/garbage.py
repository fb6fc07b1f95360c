"""Full garbage collections at times of our own.

A full one looks at every object in memory, and nothing else happens meanwhile: 0.1 to 0.2 s with a thousand experts.
Python begins one whenever enough new objects have stayed, which a fleet that changes has every few seconds, although
next to nothing is found: what the store lets go of has no cycles. Young objects are collected as ever.
"""

from __future__ import annotations

import asyncio
import gc

INTERVAL_SECONDS = 60.0
NEVER = 10**9


async def collect_rarely(interval_seconds: float = INTERVAL_SECONDS) -> None:
    """Take full collections over from Python, and make one every ``interval_seconds``. Does not return."""
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, NEVER)
    while True:
        await asyncio.sleep(interval_seconds)
        gc.collect()
