"""The command line of ``kubectl recast``: status, why, timeline. Everything it does is reading."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from rich.console import Console

from recast_cli import live, prometheus, tree, why
from recast_cli.cluster import Cluster, ClusterError
from recast_cli.live import NoAnswerError
from recast_cli.timeline import Line, Timeline

PIPE_COLUMNS = 10_000
STYLES = {"plain": "", "good": "green", "bad": "bold red", "wait": "yellow"}


def format_line(line: Line, seconds: float) -> str:
    """``03:12 home-fm    v2 accepted …`` with the time since the view began."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes:02d}:{rest:02d} {line.subject:<10} {line.text}"


EXAMPLES = """examples:
  kubectl recast status                     all foundations of the namespace, with their experts
  kubectl recast status home-fm -n shop     one foundation of another namespace
  kubectl recast why reels                  why it serves what it serves, and what has to happen next
  kubectl recast timeline                   transitions as they happen; stop with Ctrl-C

It needs get, list and watch on recast.dev in the namespace."""


def parser() -> argparse.ArgumentParser:
    """The plugin's arguments; the connection flags are accepted before and after the verb, as kubectl's are."""
    connection = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    connection.add_argument("-n", "--namespace", help="namespace to read (default: the context's)")
    connection.add_argument("--context", help="context of the kubeconfig (default: its current one)")
    connection.add_argument(
        "--kubeconfig", metavar="FILE", help="kubeconfig file (default: $KUBECONFIG, then ~/.kube/config)"
    )
    top = argparse.ArgumentParser(
        prog="kubectl recast",
        description="What Recast does and why. It only reads.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[connection],
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="{status,why,timeline}")

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        return verbs.add_parser(name, parents=[connection], help=text, description=f"{text[0].upper()}{text[1:]}.")

    status = verb("status", "the tree: foundations, versions, experts, revisions, weights")
    status.add_argument("foundation", nargs="?", help="only this FoundationModel (default: all)")
    reason = verb("why", "which policy, which measurement and what next, for one expert")
    reason.add_argument("expert", help="name of an ExpertModel")
    metrics = reason.add_mutually_exclusive_group()
    metrics.add_argument(
        "--prometheus-url",
        metavar="URL",
        help="read a canary's figures live from this Prometheus (default: $RECAST_PROMETHEUS_URL)",
    )
    metrics.add_argument(
        "--prometheus-service",
        metavar="NAMESPACE/NAME:PORT",
        help="read them from this Service, through the apiserver",
    )
    verb("timeline", "follow transitions as they happen, one line each")
    return top


def follow(cluster: Cluster, console: Console) -> None:
    """Print transitions until interrupted."""
    timeline, began = Timeline(), time.monotonic()

    def say(line: Line) -> None:
        console.print(format_line(line, time.monotonic() - began), style=STYLES[line.tone])

    changes = cluster.watch(threading.Event(), lambda item: say(Line(item.name, str(item), "bad")))
    with contextlib.closing(changes):
        for change in changes:
            for line in timeline.feed(change.resource, deleted=change.deleted):
                say(line)


def screen(*, terminal: bool) -> Console:
    """The console: a terminal wraps its lines itself, and in a pipe each line stays one, however long."""
    return Console(soft_wrap=True, markup=False, emoji=False, highlight=False, width=None if terminal else PIPE_COLUMNS)


def explain(cluster: Cluster, options: argparse.Namespace, environment: Mapping[str, str]) -> str:
    """What ``why`` prints. A Prometheus that does not answer is said there, and is no error."""
    ask = prometheus_of(cluster, options, environment)
    world, now = cluster.world(), datetime.now(UTC)
    figures = live.read(why.found(world, options.expert), ask, now) if ask else None
    return why.render(world, options.expert, now, figures)


def prometheus_of(cluster: Cluster, options: argparse.Namespace, environment: Mapping[str, str]) -> live.Ask | None:
    """The way to Prometheus that was asked for: a flag before the environment. None: none was.

    Raises :class:`NoAnswerError` where what was given names no Prometheus.
    """
    if options.prometheus_service:
        return prometheus.through(cluster.api.api_client, options.prometheus_service)
    url = options.prometheus_url or environment.get("RECAST_PROMETHEUS_URL", "")
    return prometheus.at_url(url) if url else None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one verb; exits 1 with one line on standard error where the cluster or the name cannot be found."""
    options = parser().parse_args(arguments)
    console = screen(terminal=sys.stdout.isatty())
    try:
        cluster = Cluster.connect(
            getattr(options, "kubeconfig", None), getattr(options, "context", None), getattr(options, "namespace", None)
        )
        match options.verb:
            case "status":
                trees = tree.render(cluster.world(), datetime.now(UTC), options.foundation)
                if not trees:
                    console.print(f"nothing of Recast in namespace {cluster.namespace}; try -n <namespace>")
                for entry in trees:
                    console.print(entry, soft_wrap=False)  # soft-wrapped, a tree would be cut at the right edge
            case "why":
                console.print(explain(cluster, options, os.environ))
            case "timeline":
                follow(cluster, console)
    except (ClusterError, NoAnswerError, LookupError) as error:
        print("kubectl recast:", *str(error).split(), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
