"""kopf's own watches, against a scripted apiserver: they stay on the event loop, and outlive whatever ends one."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from recast_operator import watches as module
from recast_operator.adapters.credentials import Credentials
from recast_operator.adapters.kube import BY_KIND, CHILDREN, EXPERTS, MODELS, HttpRequester, Kube
from recast_operator.metrics import Metrics
from recast_operator.store import Store
from recast_operator.watches import Watches
from tests.unit.operator.documents import expert

Object = dict[str, Any]
CORE = {"namespaces": "Namespace", "customresourcedefinitions": "CustomResourceDefinition"}


class ScriptedApiserver:
    """Serves discovery, listings and watches of all our kinds; ``gone`` kinds are 404, as without their definition."""

    def __init__(self) -> None:
        self.gone: set[str] = set()
        self.undiscovered: set[str] = set()
        self.objects: dict[str, list[Object]] = {}
        self.streams: dict[str, list[asyncio.Queue[Object | None]]] = {}
        self.watched: set[str] = set()
        """The ends of the paths that were watched."""
        self.application = web.Application()
        self.application.router.add_get("/{path:.*}", self._answer)

    def emit(self, plural: str, kind: str, raw: Object) -> None:
        """A watch event."""
        for stream in self.streams.get(plural, []):
            stream.put_nowait({"type": kind, "object": raw})

    def end(self, plural: str) -> None:
        """Close the watches of a kind, as the apiserver does when its definition goes."""
        for stream in self.streams.pop(plural, []):
            stream.put_nowait(None)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path.strip("/").split("/")
        if request.path == "/api":
            return web.json_response({"versions": ["v1"]})
        if request.path == "/apis":
            groups = {resource.group for resource in BY_KIND.values()} | {"apiextensions.k8s.io"}
            versions = [{"name": name, "versions": [{"version": self._version(name)}]} for name in groups - {""}]
            listed = [{**entry, "preferredVersion": entry["versions"][0]} for entry in versions]
            return web.json_response({"groups": listed})
        if len(path) <= 3 and path[-1] in ("v1", "v1alpha1"):
            return web.json_response({"resources": self._resources(path[1] if path[0] == "apis" else "")})
        return await self._collection(request, path[-1])

    def _version(self, group: str) -> str:
        return next((resource.version for resource in BY_KIND.values() if resource.group == group), "v1")

    def _resources(self, group: str) -> list[Object]:
        kinds = {resource.plural: resource.kind for resource in BY_KIND.values() if resource.group == group}
        kinds |= {"namespaces": "Namespace"} if not group else {}
        kinds |= {"customresourcedefinitions": "CustomResourceDefinition"} if "apiextensions" in group else {}
        return [
            {"name": plural, "kind": kind, "singularName": kind.lower(), "namespaced": True, "verbs": ["list", "watch"]}
            for plural, kind in kinds.items()
            if plural not in self.gone | self.undiscovered
        ]

    async def _collection(self, request: web.Request, plural: str) -> web.StreamResponse:
        if plural in self.gone:
            return web.json_response({"kind": "Status", "code": 404, "message": "not found"}, status=404)
        if "watch" not in request.query:
            return web.json_response({"metadata": {"resourceVersion": "1"}, "items": self.objects.get(plural, [])})
        stream: asyncio.Queue[Object | None] = asyncio.Queue()
        self.streams.setdefault(plural, []).append(stream)
        self.watched.add("/".join(request.path.split("/")[-3 if "/namespaces/" in request.path else -2 :]))
        response = web.StreamResponse()
        await response.prepare(request)
        while (event := await stream.get()) is not None:
            await response.write(json.dumps(event).encode() + b"\n")
        return response


class RecordingRuntime:
    """As much of a runtime as the watches use, with a store that refuses other threads."""

    def __init__(self, kube: Kube, api: ScriptedApiserver) -> None:
        self.kube = kube
        self._api = api
        self.metrics = Metrics()
        self.scopes: tuple[str | None, ...] = (None,)
        self.store = Store()
        self.loops: set[tuple[int, asyncio.AbstractEventLoop]] = set()
        self.served_again: list[str] = []

    def seen(self, kind: str, event: str | None, raw: Object) -> None:
        self.loops.add((threading.get_ident(), asyncio.get_running_loop()))
        self.store.put(kind, raw)

    async def served(self, resource: Any) -> None:
        while resource.plural in self._api.gone:
            await asyncio.sleep(0)
        self.served_again.append(resource.plural)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def watched(
    monkeypatch: pytest.MonkeyPatch, scopes: tuple[str | None, ...] = (None,), undiscovered: Collection[str] = ()
) -> AsyncIterator[tuple[ScriptedApiserver, RecordingRuntime]]:
    """All watches, running."""
    api = ScriptedApiserver()
    api.undiscovered.update(undiscovered)
    api.objects["expertmodels"] = [expert("listed", version=5)]
    monkeypatch.setattr(module, "AGAIN_SECONDS", 0.01)
    async with TestServer(api.application) as server:
        credentials = Credentials(f"http://127.0.0.1:{server.port}", token_text="secret")
        requester = HttpRequester(credentials)
        runtime = RecordingRuntime(Kube(requester), api)
        runtime.scopes = scopes
        running = asyncio.create_task(Watches(runtime, credentials, lambda: None).run())  # type: ignore[arg-type]
        try:
            yield api, runtime
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await requester.close()
            for plural in list(api.streams):
                api.end(plural)


@pytest_asyncio.fixture
async def watching(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[ScriptedApiserver, RecordingRuntime]]:
    """All watches of all namespaces, running."""
    async with watched(monkeypatch) as found:
        yield found


Watching = tuple[ScriptedApiserver, RecordingRuntime]


async def test_kopf_calls_on_the_event_loop_and_never_from_a_thread(watching: Watching) -> None:
    api, runtime = watching
    await until(lambda: "expertmodels" in api.streams and runtime.store.get("ExpertModel", "n", "listed") is not None)
    api.emit("expertmodels", "ADDED", expert("watched", version=6))
    await until(lambda: runtime.store.get("ExpertModel", "n", "watched") is not None)
    assert runtime.loops == {(threading.get_ident(), asyncio.get_running_loop())}


async def test_every_kind_is_watched(watching: Watching) -> None:
    api, _ = watching
    await until(lambda: set(api.streams) == {resource.plural for resource in (*MODELS, *CHILDREN)})


async def test_a_kind_that_goes_ends_no_other_watch_and_is_picked_up_when_it_returns(watching: Watching) -> None:
    api, runtime = watching
    await until(lambda: {"expertmodels", "foundationmodels"} <= set(api.streams))
    mine = asyncio.create_task(asyncio.Event().wait())  # younger than the watches, and none of kopf's business
    api.gone.add("expertmodels")
    api.end("expertmodels")
    ended = {"kind": "ExpertModel"}
    name = "recast_operator_watches_ended_total"
    await until(lambda: runtime.metrics.registry.get_sample_value(name, ended) == 1)
    foundation = expert("home-fm", version=7) | {"kind": "FoundationModel"}
    api.emit("foundationmodels", "ADDED", foundation)
    await until(lambda: runtime.store.get("FoundationModel", "n", "home-fm") is not None)
    assert not mine.done()
    api.objects["expertmodels"] = [expert("back", version=8)]
    api.gone.clear()
    await until(lambda: runtime.store.get("ExpertModel", "n", "back") is not None)
    assert runtime.served_again == ["expertmodels"]
    await until(lambda: "expertmodels" in api.streams)
    api.emit("expertmodels", "ADDED", expert("watched", version=9))
    await until(lambda: runtime.store.get("ExpertModel", "n", "watched") is not None)
    mine.cancel()


async def test_only_the_namespaces_that_were_asked_for_are_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    async with watched(monkeypatch, scopes=("one", "two")) as (api, _):
        await until(lambda: {f"namespaces/{scope}/pods" for scope in ("one", "two")} <= api.watched)
        assert "v1/pods" not in api.watched


async def test_no_watch_of_a_kind_begins_before_discovery_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with watched(monkeypatch, undiscovered={"expertmodels"}) as (api, runtime):
        await until(lambda: "foundationmodels" in api.streams)
        api.undiscovered.clear()
        await until(lambda: "expertmodels" in api.streams)
        name = "recast_operator_watches_ended_total"
        assert runtime.metrics.registry.get_sample_value(name, {"kind": "ExpertModel"}) is None


async def test_a_kind_that_discovery_does_not_name_yet_is_waited_for() -> None:
    api = ScriptedApiserver()
    async with TestServer(api.application) as server:
        requester = HttpRequester(Credentials(f"http://127.0.0.1:{server.port}"))
        kube = Kube(requester)
        assert await kube.discovered(EXPERTS)
        api.undiscovered.add("expertmodels")
        assert not await kube.discovered(EXPERTS)
        await requester.close()
