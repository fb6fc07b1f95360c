"""Starts the traffic client and turns its reports into counts that can be judged."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

OK = "200"


@dataclass(frozen=True)
class Counts:
    """What the client saw: requests by (expert, revision header, outcome, TAE header)."""

    by: Mapping[tuple[str, str, str, str], int] = field(default_factory=dict)
    not_sent: int = 0
    slow: int = 0
    failures: Sequence[Mapping[str, str]] = ()

    @classmethod
    def parse(cls, report: Mapping[str, Any]) -> Counts:
        """The counts in one report of the client."""
        by = {(str(e), str(r), str(o), str(t)): int(n) for e, r, o, t, n in report["counts"]}
        return cls(by=by, not_sent=report["notSent"], slow=report["slow"], failures=report["failures"])

    def ok(self) -> int:
        """Requests answered well."""
        return sum(n for (_, _, outcome, _), n in self.by.items() if outcome == OK)

    def failed(self, revisions: Collection[str] | None = None) -> int:
        """Requests not answered well, by any revision or by these alone."""
        return sum(
            n
            for (_, revision, outcome, _), n in self.by.items()
            if outcome != OK and (revisions is None or revision in revisions)
        )

    def fresh_share(self, outside: Collection[str] = ()) -> float:
        """Share of well answered requests, outside of some revisions, whose TAE came fresh from the foundation."""
        answered = {key: n for key, n in self.by.items() if key[2] == OK and key[1] not in outside}
        total = sum(answered.values())
        return sum(n for (_, _, _, tae), n in answered.items() if tae == "fresh") / total if total else 0.0

    def by_revision(self) -> dict[tuple[str, str], tuple[int, int]]:
        """(good, bad) answers by (expert, revision); answers without a revision header stand under ``""``."""
        sums: dict[tuple[str, str], tuple[int, int]] = {}
        for (expert, revision, outcome, _), n in self.by.items():
            good, bad = sums.get((expert, revision), (0, 0))
            sums[expert, revision] = (good + n, bad) if outcome == OK else (good, bad + n)
        return sums

    def sentence(self, bad_revisions: Collection[str]) -> str:
        """``traffic 18,204 ok · 61 failed (all the bad canary's) · fresh TAE 99.8%``."""
        failed, theirs = self.failed(), self.failed(bad_revisions)
        whose = (
            ""
            if not failed
            else " (all the bad canary's)"
            if failed == theirs
            else f" ({failed - theirs} NOT the bad canary's)"
        )
        fresh = f"{100 * self.fresh_share(bad_revisions):.1f}%"
        return f"traffic    {self.ok():,} ok · {failed:,} failed{whose} · fresh TAE {fresh}"


class Traffic:
    """The client process. Closing it stops the traffic and keeps the last counts."""

    def __init__(self, command: Sequence[str], on_report: Callable[[Counts], None] = lambda _: None) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self._on_report = on_report
        self._counts = Counts()
        self._reader = threading.Thread(target=self._read, name="traffic", daemon=True)
        self._reader.start()

    @property
    def counts(self) -> Counts:
        """The newest report."""
        return self._counts

    def start(self, target: Mapping[str, Any]) -> None:
        """Begin to send to one more target; the fields of :class:`dev.demo.client.Target`."""
        self._send({"start": dict(target)})

    def stop(self, timeout: float = 20) -> Counts:
        """Stop sending, wait for what is in flight, and return the final counts."""
        if self._process.poll() is None:
            self._send({"stop": True})
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._reader.join(timeout)
        return self._counts

    def _send(self, command: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for report in reports(self._process.stdout):
            self._counts = Counts.parse(report)
            self._on_report(self._counts)


def reports(lines: Iterable[str]) -> Iterable[dict[str, Any]]:
    """The JSON reports among the client's lines; anything else (a banner of kubectl) is passed over."""
    for line in lines:
        if line.startswith("{"):
            yield json.loads(line)
