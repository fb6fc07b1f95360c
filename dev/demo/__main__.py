"""``python -m dev.demo run|down|picture``: run the demo, remove every trace of it, or draw the last run as an SVG."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from dev.demo import diagnose, install, picture, show, story
from dev.demo.live import WaitError
from dev.demo.scenario import SCENARIOS
from dev.demo.screen import Screen, recorded
from dev.demo.target import REPOSITORY, STATE, TargetError, choose

RECORDING = STATE / "recording.jsonl"
PICTURE = REPOSITORY / "docs" / "demo.svg"


def run(data: str) -> int:
    """The demo. 0 where everything that it stands for is true, else 1."""
    screen = Screen()
    scenario = SCENARIOS[data]
    cluster = choose(os.environ)
    screen.record(RECORDING)  # not before: a refusal leaves the last recording as it is
    screen.text(f"installing the chart, the volumes and the {scenario.name} data …")
    questions = install.install(cluster, scenario)
    demo = story.begin(cluster, scenario, questions, screen)
    failed = ""
    try:
        demo.run()
    except (WaitError, TargetError) as error:
        failed = str(error)
    finally:
        demo.live.stop()
    if failed:
        print(diagnose.report(cluster, demo.live.world))
    print(show.state(cluster, scenario, questions))
    for check in demo.checks:
        screen.text(str(check), "good" if check.ok else "bad")
    bad = [check for check in demo.checks if not check.ok]
    if failed:
        screen.text(f"  FAILED {failed}", "bad")
    minutes, seconds = divmod(int(screen.seconds()), 60)
    ok = not failed and not bad
    verdict = "everything the demo stands for is true" if ok else "the demo failed"
    screen.text(f"{verdict} ({minutes} min {seconds} s)", "good" if ok else "bad")
    return 0 if ok else 1


def draw(recording: Path, out: Path) -> int:
    """Write the SVG of a recording. 1 with one line on standard error where there is none of a demo that succeeded."""
    try:
        text = picture.svg(recorded(recording))
    except (FileNotFoundError, ValueError) as error:
        print(f"demo: {recording}: {error}; run make demo first", file=sys.stderr)
        return 1
    out.write_text(text, encoding="utf-8")
    print(f"wrote {out}")
    return 0


def main() -> int:
    """Parse, run, and turn a refusal into one line."""
    parser = argparse.ArgumentParser(prog="python -m dev.demo", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("down", help="remove what the demo made")
    verb = verbs.add_parser("run", help="run the demo")
    verb.add_argument("--data", default="synthetic", choices=sorted(SCENARIOS))
    verb = verbs.add_parser("picture", help="draw what the last run printed, as an SVG")
    verb.add_argument("--recording", type=Path, default=RECORDING, help="written by a run (default: the last run's)")
    verb.add_argument("--out", type=Path, default=PICTURE, help="default: docs/demo.svg")
    options = parser.parse_args()
    try:
        if options.verb == "picture":
            return draw(options.recording, options.out)
        if options.verb == "down":
            install.uninstall(choose(os.environ, install=False))
            return 0
        return run(options.data)
    except (TargetError, WaitError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
