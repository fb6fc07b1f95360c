"""kopf's watches: one for each kind in each scope, each begun again by itself where it fails.

kopf watches, and does nothing else: no change handlers, timers, daemons or finalizers, so that it never writes on an
object. This is the only module that knows kopf.

A kopf operator ends as a whole when one of its watches does: with a 404 where a CustomResourceDefinition was deleted,
or after a minute or two of 403 or 5xx (``kopf._core.reactor.orchestration`` raises what ended a watcher). So every
watch is a kopf operator of its own, made with :func:`kopf.spawn_tasks` and not with ``kopf.operator``, which at its end
cancels every task of the event loop that is younger than itself. A watch that ended waits until its kind is served;
and none begins before discovery names its kind, since kopf, which looks there once, would silently watch nothing.

A handler that is no coroutine is called by kopf in a thread; these are coroutines, and stay on the loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Any

import kopf

from recast_operator.adapters.credentials import Credentials
from recast_operator.adapters.kube import CHILDREN, MODELS, PAGE, Resource
from recast_operator.listing import selector
from recast_operator.runtime import Runtime

logger = logging.getLogger(__name__)

WATCH_SECONDS = 300
AGAIN_SECONDS = 1.0
Seen = Callable[[str, str | None, dict[str, Any]], None]


# kopf tells the end of a watch twice, each time with a traceback of its own inside; below it is one line.
for _speaker in ("orchestration", "running"):
    logging.getLogger(f"kopf._core.reactor.{_speaker}").addFilter(lambda record: record.exc_info is None)


class NoDiffBase(kopf.DiffBaseStorage):  # type: ignore[misc]
    """Nothing is compared with what was last handled. kopf's own storages copy every object of every event for that."""

    def build(self, *, body: Any, extra_fields: Any = None) -> Any:
        """An empty essence."""
        return {}

    def fetch(self, *, body: Any) -> Any:
        """Nothing was handled before."""
        return None

    def store(self, *, body: Any, patch: Any, essence: Any) -> None:
        """Nothing is remembered."""


class NoProgress(kopf.ProgressStorage):  # type: ignore[misc]
    """There are no handlers whose progress could be remembered."""

    def fetch(self, *, key: Any, body: Any) -> Any:
        """None was made."""
        return None

    def store(self, *, key: Any, record: Any, body: Any, patch: Any) -> None:
        """None is remembered."""

    def purge(self, *, key: Any, body: Any, patch: Any) -> None:
        """There is none."""

    def touch(self, *, body: Any, patch: Any, value: Any) -> None:
        """Objects are left alone."""

    def clear(self, *, essence: Any) -> Any:
        """As it is."""
        return essence


def kopf_settings(resource: Resource) -> kopf.OperatorSettings:
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
    settings.watching.chunk_size = PAGE
    settings.queueing.idle_timeout = 0.1  # a task for each object that has just changed need not linger
    settings.persistence.diffbase_storage = NoDiffBase()
    settings.persistence.progress_storage = NoProgress()
    if labels := selector(resource):
        settings.watching.label_selectors[_address(resource)] = labels
    return settings


def kopf_registry(resource: Resource, credentials: Credentials, seen: Seen) -> kopf.OperatorRegistry:
    """One event handler, and a login with the operator's own credentials."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)  # type: ignore[untyped-decorator]
    async def login(**_: Any) -> kopf.ConnectionInfo:
        return kopf.ConnectionInfo(
            server=credentials.server,
            ca_data=credentials.ca,
            insecure=credentials.insecure,
            scheme="Bearer",
            token=credentials.token(),
            certificate_data=credentials.certificate,
            private_key_data=credentials.key,
        )

    @kopf.on.event(*_address(resource), id=f"watch-{resource.plural}", registry=registry)  # type: ignore[untyped-decorator]
    async def notice(event: Any, **_: Any) -> None:
        seen(resource.kind, event["type"], event["object"])

    return registry


class Watches:
    """All watches of a runtime. ``signals`` is called whenever kopf has put its own signal handlers in place."""

    def __init__(self, runtime: Runtime, credentials: Credentials, signals: Callable[[], None]) -> None:
        self._runtime = runtime
        self._credentials = credentials
        self._signals = signals

    async def run(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as group:
            for resource in (*MODELS, *CHILDREN):
                for scope in self._runtime.scopes:
                    group.create_task(self._keep(resource, scope), name=f"watch-{resource.plural}-{scope or 'all'}")

    async def _keep(self, resource: Resource, scope: str | None) -> None:
        """One watch, for ever."""
        while True:
            error: BaseException | None
            try:
                await self._discovered(resource)
                error = await self._watch(resource, scope)
            except Exception as failed:
                error = failed
            self._runtime.metrics.watch_ended(resource.kind)
            words = f"{type(error).__name__}: {error}"
            logger.warning("the watch of %s in %s ended (%s); it begins again", resource.plural, scope or "all", words)
            await asyncio.sleep(AGAIN_SECONDS)
            await self._runtime.served(resource)
            logger.info("%s are served; watching them again", resource.plural)

    async def _discovered(self, resource: Resource) -> None:
        while not await self._runtime.kube.discovered(resource):
            await asyncio.sleep(AGAIN_SECONDS)

    async def _watch(self, resource: Resource, scope: str | None) -> BaseException | None:
        """One kopf operator, until one of its tasks ends; what ended it."""
        stop = asyncio.Event()
        tasks: Collection[asyncio.Task[None]] = await kopf.spawn_tasks(
            registry=kopf_registry(resource, self._credentials, self._runtime.seen),
            settings=kopf_settings(resource),
            clusterwide=scope is None,
            namespaces=[] if scope is None else [scope],
            standalone=True,
            stop_flag=stop,
        )
        self._signals()
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.set()  # without it kopf takes a cancellation for a hang, and kills the process after a while
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return next((error for task in done if not task.cancelled() and (error := task.exception())), None)


def _address(resource: Resource) -> tuple[str, str, str]:
    return (resource.group, resource.version, resource.plural)
