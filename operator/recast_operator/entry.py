"""The operator's process: command line, kopf's watches, and the wiring between them.

kopf watches, and does nothing else: no change handlers, timers, daemons or finalizers, so that it never writes on an
object. Its events go to :class:`recast_operator.runtime.Runtime`. This is the only module that knows kopf.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import kopf

from recast_operator.adapters.credentials import Credentials, from_kubeconfig, in_cluster
from recast_operator.adapters.kube import CHILDREN, MODELS, HttpRequester, Kube, Resource
from recast_operator.liveness import serve
from recast_operator.metrics import Metrics
from recast_operator.runtime import Runtime, Settings, selector

logger = logging.getLogger("recast_operator")

WATCH_SECONDS = 300


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
    parser.add_argument("--resync-seconds", type=float, default=300.0, help="list and look at everything this often")
    parser.add_argument("--heartbeat-seconds", type=float, default=10.0, help="ask the apiserver this often")
    parser.add_argument(
        "--liveness-seconds", type=float, default=90.0, help="/healthz fails after this long without an event or a pass"
    )
    parser.add_argument("--workers", type=int, default=4, help="models that are reconciled at once")
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    return parser.parse_args(argv)


def kopf_settings() -> kopf.OperatorSettings:
    """kopf as a watcher that notices dead connections and posts nothing."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.scanning.disabled = True  # the kinds are known, and need not be discovered again
    settings.networking.connect_timeout = 10
    settings.networking.request_timeout = 30
    settings.watching.connect_timeout = 10
    settings.watching.server_timeout = WATCH_SECONDS
    settings.watching.client_timeout = WATCH_SECONDS + 1
    for resource in CHILDREN:
        settings.watching.label_selectors[_address(resource)] = selector(resource)
    return settings


def kopf_registry(runtime: Runtime, credentials: Credentials) -> kopf.OperatorRegistry:
    """One event handler a kind, and a login with the operator's own credentials."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)  # type: ignore[untyped-decorator]
    def login(**_: Any) -> kopf.ConnectionInfo:
        return kopf.ConnectionInfo(
            server=credentials.server,
            ca_data=credentials.ca,
            insecure=credentials.insecure,
            scheme="Bearer",
            token=credentials.token(),
            certificate_data=credentials.certificate,
            private_key_data=credentials.key,
        )

    def watch(resource: Resource) -> None:
        @kopf.on.event(*_address(resource), id=f"watch-{resource.plural}", registry=registry)  # type: ignore[untyped-decorator]
        def notice(event: Any, **_: Any) -> None:
            runtime.seen(resource.kind, event["type"], dict(event["object"]))

    for resource in (*MODELS, *CHILDREN):
        watch(resource)
    return registry


def _address(resource: Resource) -> tuple[str, str, str]:
    return (resource.group, resource.version, resource.plural)


async def run(options: argparse.Namespace) -> None:
    """Work until a signal ends kopf."""
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
    try:
        # kopf looks once which kinds there are, so the definitions must be there before it starts.
        if await _finished_before_signal(runtime.start()):
            logger.info("the first listing is complete")
            await kopf.operator(
                registry=kopf_registry(runtime, credentials),
                settings=kopf_settings(),
                clusterwide=not options.namespace,
                namespaces=options.namespace,
                standalone=True,
            )
    finally:
        await runtime.stop()
        await server.cleanup()
        await requester.close()
        logger.info("stopped")


async def _finished_before_signal(work: Coroutine[Any, Any, None]) -> bool:
    """Await ``work`` unless SIGTERM or SIGINT comes first, which then cancels it. Later kopf takes the signals over."""
    task = asyncio.create_task(work, name="start")
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return False
    return True


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
