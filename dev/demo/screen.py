"""What the demo says: on the terminal as it happens, and in a recording that :mod:`dev.demo.picture` draws."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from recast_cli.main import STYLES, format_line
from recast_cli.timeline import Line, Tone


@dataclass(frozen=True)
class Shown:
    """One line as it stood on the screen, and the seconds since the demo began."""

    seconds: float
    text: str
    tone: Tone = "plain"


class Screen:
    """Prints lines under one clock, and records them where it was told to."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._began = clock, clock()
        self._console = Console(soft_wrap=True, file=sys.stdout)
        self._recording: Path | None = None
        self._lock = threading.Lock()

    def record(self, path: Path) -> None:
        """From now on write every line to that file too, one JSON object per line; what it held before is gone."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        self._recording = path

    def seconds(self) -> float:
        """Since the demo began."""
        return self._clock() - self._began

    def line(self, line: Line) -> None:
        """A line of the timeline, with the time in front."""
        self.text(format_line(line, self.seconds()), line.tone)

    def text(self, text: str, tone: Tone = "plain") -> None:
        """A line as it is."""
        with self._lock:  # the watch and the traffic print from threads of their own
            self._console.print(text, style=STYLES[tone], markup=False, highlight=False)
            if self._recording is not None:
                shown = asdict(Shown(round(self.seconds(), 2), text, tone))
                with self._recording.open("a") as file:
                    file.write(json.dumps(shown, ensure_ascii=False) + "\n")


def recorded(path: Path) -> list[Shown]:
    """The lines of a recording. Raises ``FileNotFoundError``, and ``ValueError`` where it is not one."""
    return [Shown(**json.loads(line)) for line in path.read_text().splitlines()]
