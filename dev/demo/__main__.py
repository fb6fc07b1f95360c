"""``python -m dev.demo run|down``: tells the story once, or removes every trace of it."""

from __future__ import annotations

import argparse
import os
import sys
import time

from dev.demo import diagnose, install, show, story
from dev.demo.live import WaitError
from dev.demo.scenario import SCENARIOS
from dev.demo.target import TargetError, choose


def run(data: str) -> int:
    """The demo. 0 where everything that it stands for is true, else 1."""
    began = time.monotonic()
    scenario = SCENARIOS[data]
    cluster = choose(os.environ)
    print(f"installing the chart, the volumes and the {scenario.name} data …", flush=True)
    questions = install.install(cluster, scenario)
    telling = story.begin(cluster, scenario, questions, began)
    failed = ""
    try:
        telling.run()
    except (WaitError, TargetError) as error:
        failed = str(error)
    finally:
        telling.live.stop()
    if failed:
        print(diagnose.report(cluster, telling.live.world))
    print(show.state(cluster, scenario, questions))
    for check in telling.checks:
        print(check)
    bad = [check for check in telling.checks if not check.ok]
    if failed:
        print(f"  FAILED {failed}")
    minutes, seconds = divmod(int(time.monotonic() - began), 60)
    verdict = "the demo failed" if failed or bad else "everything the demo stands for is true"
    print(f"{verdict} ({minutes} min {seconds} s)", flush=True)
    return 1 if failed or bad else 0


def main() -> int:
    """Parse, run, and turn a refusal into one line."""
    parser = argparse.ArgumentParser(prog="python -m dev.demo", description=__doc__)
    parser.add_argument("verb", choices=("run", "down"))
    parser.add_argument("--data", default="synthetic", choices=sorted(SCENARIOS))
    options = parser.parse_args()
    try:
        if options.verb == "down":
            install.uninstall(choose(os.environ, install=False))
            return 0
        return run(options.data)
    except (TargetError, WaitError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
