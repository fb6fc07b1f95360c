"""The operator's process: command line, signals, and the wiring of :mod:`runtime` and :mod:`watches`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from recast_operator.adapters.credentials import from_kubeconfig, in_cluster
from recast_operator.adapters.kube import HttpRequester, Kube
from recast_operator.liveness import serve
from recast_operator.metrics import Metrics
from recast_operator.runtime import Runtime, Settings
from recast_operator.watches import Watches

logger = logging.getLogger("recast_operator")


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The parsed command line."""
    parser = argparse.ArgumentParser(
        prog="recast-operator", description="Trains, rolls out and retires foundation and expert models on Kubernetes."
    )
    scope = parser.add_mutually_exclusive_group(required=True)
    scope.add_argument("--namespace", action="append", default=[], help="watch this namespace; may be repeated")
    scope.add_argument("--all-namespaces", action="store_true", help="watch every namespace")
    parser.add_argument("--kubeconfig", type=Path, help="cluster to work on; default: the pod's own (no ambient file)")
    parser.add_argument("--context", help="context of the kubeconfig; default: its current one")
    parser.add_argument("--prometheus-url", default="", help="where canaries are judged; without it they get no data")
    parser.add_argument("--metrics-port", type=int, default=9100, help="/metrics, /healthz and /readyz (default 9100)")
    parser.add_argument(
        "--resync-seconds", type=float, default=300.0, help="list and look at everything this often (default 300)"
    )
    parser.add_argument(
        "--heartbeat-seconds", type=float, default=10.0, help="ask the apiserver this often (default 10)"
    )
    parser.add_argument(
        "--liveness-seconds",
        type=float,
        default=90.0,
        help="/healthz fails after so long without an answer or a pass (default 90)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=3,
        help="experts that are reconciled at once, apart from those that wait for Prometheus (default 3); more only "
        "where the apiserver is far away: beside it they queue up there",
    )
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    return parser.parse_args(argv)


async def run(options: argparse.Namespace) -> None:
    """Work until SIGTERM or SIGINT."""
    credentials = from_kubeconfig(options.kubeconfig, options.context) if options.kubeconfig else in_cluster()
    metrics = Metrics()
    requester = HttpRequester(credentials, metrics.api_called)
    settings = Settings(
        namespaces=tuple(options.namespace),
        prometheus_url=options.prometheus_url,
        resync_seconds=options.resync_seconds,
        heartbeat_seconds=options.heartbeat_seconds,
        liveness_seconds=options.liveness_seconds,
        workers=options.workers,
    )
    runtime = Runtime(settings, Kube(requester), metrics)
    server = await serve(options.metrics_port, runtime.liveness, metrics)
    logger.info("serving %s, metrics and health on port %d", credentials.server, options.metrics_port)

    async def work() -> None:
        # A kind that is not there when kopf looks is not watched, so the definitions must be there before.
        await runtime.start()
        logger.info("the first listing is complete")
        await Watches(runtime, credentials, take_signals).run()

    task = asyncio.create_task(work(), name="work")

    def take_signals() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)

    take_signals()
    try:
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
    finally:
        await runtime.stop()
        await server.cleanup()
        await requester.close()
        logger.info("stopped")


def main(argv: Sequence[str] | None = None) -> int:
    """The ``recast-operator`` command."""
    options = arguments(argv)
    logging.basicConfig(
        level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    # kopf logs every event of every object at info.
    logging.getLogger("kopf").setLevel(max(logging.WARNING, logging.getLogger().level))
    try:
        asyncio.run(run(options))
    except ValueError as error:
        print(f"recast-operator: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
