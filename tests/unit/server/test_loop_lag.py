"""How late the event loop is."""

from __future__ import annotations

import asyncio
import time

import pytest
from real_edge import until

from recast_server.runtime.loop_lag import LoopLag


async def test_a_loop_that_was_held_is_late_and_recovers() -> None:
    lag = LoopLag()
    lag.start()
    await until(lambda: lag._due > 0)
    time.sleep(0.2)  # what a callback must never do
    await until(lambda: lag.seconds > 0.1)
    await until(lambda: lag.seconds < 0.05)
    lag.stop()


async def test_less_than_the_resolution_of_a_timer_is_no_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    lag = LoopLag()
    monkeypatch.setattr("recast_server.runtime.loop_lag.RESOLUTION_SECONDS", 3600.0)
    lag.start()
    first = lag._due
    await until(lambda: lag._due > first)
    assert lag.seconds == 0
    lag.stop()
    stopped = lag._due
    await asyncio.sleep(0)
    assert lag._due == stopped
