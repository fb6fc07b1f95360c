"""Everybody but the operator, for a fleet: trainers, the Deployment controller, the kubelet and Prometheus.

They talk to a real apiserver as their originals would, and cheaply: a Job is complete soon after it was made and its
ModelVersion has landed, a Deployment has as many ready pods as it asks for, and Prometheus answers every query from
what a healthy server would have counted. Nothing of the operator is imported, so that any operator can be measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from tests.integration.operator.cast import completed, landed_version, training_run

Object = dict[str, Any]
JSON = "application/json"
MERGE = "application/merge-patch+json"
MANAGED = "app.kubernetes.io/managed-by=recast"
TRAINING_SECONDS = 0.5
WORKERS = 16


class Apiserver:
    """Plain JSON over one pool of connections, as the administrator."""

    def __init__(self, server: str, pki: Path) -> None:
        tls = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        tls.load_cert_chain(pki / "admin.crt", pki / "admin.key")
        self._session = aiohttp.ClientSession(
            base_url=server,
            connector=aiohttp.TCPConnector(ssl=tls, limit=64),
            timeout=aiohttp.ClientTimeout(total=None, sock_read=120),
        )

    async def close(self) -> None:
        await self._session.close()

    async def send(
        self, method: str, path: str, body: Object | None = None, content_type: str = JSON, **params: str
    ) -> Object:
        """The answer; an empty object for 404 and 409, which every one of the simulated expects."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": content_type}
        while True:
            async with self._session.request(method, path, data=data, headers=headers, params=params) as response:
                text = await response.text()
                if response.status in (404, 409):
                    return {}
                if response.status != 429:  # too many requests, or a new kind whose storage is being made
                    assert response.status < 400, f"{method} {path}: {response.status}: {text[:500]}"
                    found: Object = json.loads(text)
                    return found
            await asyncio.sleep(0.2)

    async def follow(self, path: str, selector: str = "") -> AsyncIterator[tuple[str, Object]]:
        """All objects of a collection, then every change of one."""
        params: Object = {"labelSelector": selector} if selector else {}
        while True:
            listed = await self.send("GET", path, **params)
            for raw in listed["items"]:
                yield "ADDED", raw
            since = listed["metadata"]["resourceVersion"]
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with self._session.get(
                    path, params={**params, "watch": "true", "resourceVersion": since}, read_bufsize=2**20
                ) as response:
                    async for line in response.content:
                        event = json.loads(line)
                        if event["type"] == "ERROR":
                            break
                        yield event["type"], event["object"]


class Simulator:
    """Plays in one namespace until it is closed. ``landed`` is called with each ModelVersion that a run lands."""

    def __init__(self, api: Apiserver, namespace: str, landed: Callable[[Object], None] = lambda version: None) -> None:
        self._api = api
        self._namespace = namespace
        self._landed = landed
        self._deployments: dict[str, Object] = {}
        self._pods: dict[str, int] = {}
        self._dirty: asyncio.Queue[str] = asyncio.Queue()
        self._queued: set[str] = set()
        self._jobs: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        work = [self._watch_jobs(), self._watch_deployments(), *(self._work() for _ in range(WORKERS))]
        self._tasks = [asyncio.create_task(part) for part in work]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    def _path(self, prefix: str, plural: str, *rest: str) -> str:
        return "/".join([prefix, "namespaces", self._namespace, plural, *rest])

    async def _watch_jobs(self) -> None:
        async for kind, raw in self._api.follow(self._path("/apis/batch/v1", "jobs"), MANAGED):
            name = raw["metadata"]["name"]
            if kind == "ADDED" and name not in self._jobs:
                self._jobs.add(name)
                if not (raw.get("status") or {}).get("conditions"):
                    self._tasks.append(asyncio.create_task(self._train(raw)))

    async def _train(self, job: Object) -> None:
        await asyncio.sleep(TRAINING_SECONDS)
        version = landed_version(training_run(job), self._namespace)
        made = await self._api.send("POST", self._path("/apis/recast.dev/v1alpha1", "modelversions"), version)
        if made:
            self._landed(made)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        path = self._path("/apis/batch/v1", "jobs", job["metadata"]["name"], "status")
        await self._api.send("PATCH", path, {"status": completed(job, now)}, MERGE)

    async def _watch_deployments(self) -> None:
        async for kind, raw in self._api.follow(self._path("/apis/apps/v1", "deployments"), MANAGED):
            name = raw["metadata"]["name"]
            if kind == "DELETED":
                self._deployments.pop(name, None)
            else:
                self._deployments[name] = raw
            if name not in self._queued:
                self._queued.add(name)
                self._dirty.put_nowait(name)

    async def _work(self) -> None:
        while True:
            name = await self._dirty.get()
            self._queued.discard(name)
            await self._scale(name)

    async def _scale(self, name: str) -> None:
        raw = self._deployments.get(name)
        wanted = raw["spec"]["replicas"] if raw else 0
        while raw is not None and self._pods.get(name, 0) < wanted:
            index = self._pods.get(name, 0)
            self._pods[name] = index + 1
            await self._start_pod(f"{name}-{index}", raw)
        while self._pods.get(name, 0) > wanted:
            self._pods[name] -= 1
            await self._api.send(
                "DELETE", self._path("/api/v1", "pods", f"{name}-{self._pods[name]}"), gracePeriodSeconds="0"
            )
        if raw is None:
            return
        generation, status = raw["metadata"]["generation"], raw.get("status") or {}
        if (status.get("observedGeneration"), status.get("readyReplicas", 0)) != (generation, wanted):
            counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), wanted)
            body = {"status": {"observedGeneration": generation, **counts}}
            await self._api.send("PATCH", self._path("/apis/apps/v1", "deployments", name, "status"), body, MERGE)

    async def _start_pod(self, name: str, deployment: Object) -> None:
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": deployment["spec"]["template"]["metadata"]["labels"]},
            "spec": {
                "containers": [
                    {"name": "server", "image": deployment["spec"]["template"]["spec"]["containers"][0]["image"]}
                ]
            },
        }
        await self._api.send("POST", self._path("/api/v1", "pods"), body)
        ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        await self._api.send("PATCH", self._path("/api/v1", "pods", name, "status"), {"status": ready}, MERGE)


class FakePrometheus:
    """Answers instant queries: a thousand requests a window for everybody, none of them bad."""

    def __init__(self) -> None:
        self.queries = 0
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        application = web.Application()
        application.router.add_route("*", "/api/v1/query", self._query)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _query(self, request: web.Request) -> web.Response:
        self.queries += 1
        query = request.query.get("query") or str((await request.post()).get("query", ""))
        bad = "code=~" in query or "state!=" in query or "slow" in query
        sample = {"metric": {}, "value": [0, "0" if bad else "1000"]}
        return web.json_response({"status": "success", "data": {"resultType": "vector", "result": [sample]}})
