"""Long steps say how long they usually take: durations are remembered in the cache."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator

from dev.cluster.paths import cache

_FILE = "durations.json"


def _durations() -> dict[str, float]:
    try:
        loaded: dict[str, float] = json.loads((cache() / _FILE).read_text())
    except (OSError, ValueError):
        return {}
    return loaded


def say(text: str) -> None:
    """One line for the person at the terminal; on stderr, so that ``--json`` output stays clean."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def step(title: str, usually: float) -> Iterator[None]:
    """Announce a step with the time it took last time (or ``usually`` seconds), and repeat every 20 s what is left."""
    expected = _durations().get(title, usually)
    say(f"  {title} … about {expected:.0f} s")
    begun = time.monotonic()
    done = threading.Event()

    def remind() -> None:
        while not done.wait(20):
            spent = time.monotonic() - begun
            left = f"about {expected - spent:.0f} s left" if expected > spent else "longer than last time"
            say(f"  {title} … {spent:.0f} s, {left}")

    threading.Thread(target=remind, daemon=True).start()
    try:
        yield
    except BaseException:
        say(f"  {title} FAILED after {time.monotonic() - begun:.0f} s")
        raise
    finally:
        done.set()
    spent = time.monotonic() - begun
    say(f"  {title} done in {spent:.1f} s")
    if spent > 2:
        (cache() / _FILE).write_text(json.dumps(_durations() | {title: round(spent, 1)}, indent=1, sort_keys=True))
