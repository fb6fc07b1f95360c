"""The apiserver, spoken to with plain JSON objects over one HTTP session.

Typed clients are strict about what they read, and a newer apiserver's answer must not stop a reconcile: so objects are
dicts here, and :mod:`recast_operator.observe` turns what matters into values. Every write either returns the object as
the apiserver now has it, or raises one of :mod:`recast_operator.adapters.errors`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import aiohttp

from recast_api.names import FIELD_MANAGER
from recast_operator.adapters.credentials import Credentials
from recast_operator.adapters.errors import Blocked, Conflict, Expired, Invalid, NotFound, OutsideError, Transient

Object = dict[str, Any]
T = TypeVar("T")

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
JSON = "application/json"
REQUEST_SECONDS = 30.0
PAGE = 200
"""Objects in one answer of a listing. Decoded, a Deployment takes 50 KiB for a moment, and kinds are listed at once."""


@dataclass(frozen=True)
class Resource:
    """One kind of object and where its API is."""

    kind: str
    group: str
    version: str
    plural: str

    @property
    def api_version(self) -> str:
        """``group/version``, or ``v1`` for the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """The URL path of a collection, an object or its subresource."""
        parts = ["apis" if self.group else "api", self.api_version]
        parts += ["namespaces", namespace] if namespace else []
        parts += [part for part in (self.plural, name, subresource) if part]
        return "/" + "/".join(parts)


FOUNDATIONS = Resource("FoundationModel", "recast.dev", "v1alpha1", "foundationmodels")
EXPERTS = Resource("ExpertModel", "recast.dev", "v1alpha1", "expertmodels")
VERSIONS = Resource("ModelVersion", "recast.dev", "v1alpha1", "modelversions")
JOBS = Resource("Job", "batch", "v1", "jobs")
PODS = Resource("Pod", "", "v1", "pods")
DEPLOYMENTS = Resource("Deployment", "apps", "v1", "deployments")
SERVICES = Resource("Service", "", "v1", "services")
BUDGETS = Resource("PodDisruptionBudget", "policy", "v1", "poddisruptionbudgets")
POLICIES = Resource("NetworkPolicy", "networking.k8s.io", "v1", "networkpolicies")
EVENTS = Resource("Event", "events.k8s.io", "v1", "events")

MODELS = (FOUNDATIONS, EXPERTS, VERSIONS)
CHILDREN = (JOBS, PODS, DEPLOYMENTS, SERVICES, BUDGETS, POLICIES)
BY_KIND: Mapping[str, Resource] = {resource.kind: resource for resource in (*MODELS, *CHILDREN, EVENTS)}


@dataclass(frozen=True)
class Request:
    """One request to the apiserver."""

    method: str
    path: str
    body: Object | None = None
    content_type: str = JSON
    params: Mapping[str, str] | None = None
    text: bool = False
    """The answer is text, not JSON: a pod's log."""

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def resource(self) -> str:
        """The plural, and the subresource where there is one; empty for discovery."""
        parts = self.path.strip("/").split("/")
        rest = parts[2:] if parts[0] == "api" else parts[3:]
        if rest[:1] == ["namespaces"] and len(rest) > 2:
            rest = rest[2:]
        return "/".join([*rest[:1], *rest[2:]])


class Requester(Protocol):
    """One HTTP exchange with the apiserver: the seam where a test counts, delays or cuts."""

    async def send(self, request: Request) -> Any:
        """The decoded JSON answer, or the raw text where that was asked for."""
        ...


class Exchange(Protocol):
    """The same for a thread: TorchX's side of :class:`Requester`."""

    def send(self, request: Request) -> Any:
        """As :meth:`Requester.send`."""
        ...


Count = Callable[[str, str, str], None]
"""Called with every request: the verb, the resource as in ``pods`` or ``jobs/status``, the status code or ``error``."""


class HttpRequester:
    """:class:`Requester` over aiohttp. Made and used inside one event loop."""

    def __init__(self, credentials: Credentials, count: Count = lambda verb, resource, code: None) -> None:
        self._credentials = credentials
        self._count = count
        self._session: aiohttp.ClientSession | None = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            tls = self._credentials.ssl_context()
            self._session = aiohttp.ClientSession(
                base_url=self._credentials.server,
                connector=aiohttp.TCPConnector(ssl=tls if tls is not None else True, limit=32),
                timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS, connect=10),
            )
        return self._session

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def send(self, request: Request) -> Any:
        """The decoded answer. Raises :class:`OutsideError` of the kind that tells what to do."""
        headers = {"Accept": "*/*" if request.text else JSON}
        if token := self._credentials.token():
            headers["Authorization"] = f"Bearer {token}"
        data = None
        if request.body is not None:
            data = json.dumps(request.body).encode()
            headers["Content-Type"] = request.content_type
        asked = self._open().request(request.method, request.path, data=data, headers=headers, params=request.params)
        try:
            async with asked as response:
                payload = await response.text()
                self._count(request.method, request.resource, str(response.status))
                if response.status >= 400:
                    raise error_of(response.status, payload, str(request))
                return payload if request.text else json.loads(payload or "{}")
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            self._count(request.method, request.resource, "error")
            words = str(error) or type(error).__name__
            raise Transient(f"{request}: {words}", unknown_outcome=request.method != "GET") from error


def error_of(status: int, payload: str, what: str) -> OutsideError:
    """The error for an HTTP answer of 400 or more, with the apiserver's own words."""
    try:
        message = json.loads(payload).get("message") or payload
    except (ValueError, AttributeError):
        message = payload
    text = f"{what}: {status}: {str(message)[:900]}"
    if status == 404:
        return NotFound(text, status=status)
    if status == 409:
        return Conflict(text, status=status)
    if status == 410:
        return Expired(text, status=status)
    if status == 422 and "metadata.uid: Invalid value" in text:
        return Conflict(text, status=status)  # the write named a UID, and another object has the name now
    if status in (400, 413, 415, 422):
        return Invalid(text, status=status)
    if status == 403:
        return Blocked(text + " (grant the operator's role this permission)", status=status)
    return Transient(text, status=status, unknown_outcome=status in (500, 504))


class Kube:
    """The verbs that Recast uses."""

    def __init__(self, requester: Requester) -> None:
        self.requester = requester

    async def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """One object. Raises :class:`NotFound`."""
        found: Object = await self.requester.send(Request("GET", resource.path(namespace, name)))
        return found

    async def exists(self, resource: Resource, namespace: str | None) -> None:
        """Ask for one object of a collection, from the apiserver's cache: the cheapest question that there is.

        Raises :class:`NotFound` where the kind is not served.
        """
        params = {"limit": "1", "resourceVersion": "0"}
        await self.requester.send(Request("GET", resource.path(namespace), params=params))

    async def discovered(self, resource: Resource) -> bool:
        """Whether the apiserver's discovery names a kind: for a new definition that comes a moment after serving it."""
        if resource.group:
            groups = await self.requester.send(Request("GET", "/apis"))
            if resource.group not in {group["name"] for group in groups["groups"]}:
                return False
        prefix = "/apis" if resource.group else "/api"
        try:
            found = await self.requester.send(Request("GET", f"{prefix}/{resource.api_version}"))
        except NotFound:
            return False
        return resource.plural in {entry["name"] for entry in found["resources"]}

    async def pages(
        self, resource: Resource, namespace: str | None, selector: str = "", limit: int = PAGE
    ) -> AsyncIterator[Object]:
        """A collection of one namespace or of all, a page at a time; all pages are of the same moment.

        Raises :class:`Expired` where that moment is too long ago for the next page.
        """
        params = {"limit": str(limit)} | ({"labelSelector": selector} if selector else {})
        while True:
            found: Object = await self.requester.send(Request("GET", resource.path(namespace), params=params))
            yield found
            token = found["metadata"].get("continue")
            if not token:
                return
            params["continue"] = token

    async def create(self, resource: Resource, namespace: str, body: Object) -> Object:
        """Make an object. Raises :class:`Conflict` where the name is taken."""
        made: Object = await self.requester.send(
            Request("POST", resource.path(namespace), body=body, params={"fieldManager": FIELD_MANAGER})
        )
        return made

    async def apply(self, body: Object, *, force: bool = True) -> Object:
        """Create or rewrite a child: its fields become those of ``body`` under our field manager, others' stay.

        Without ``force`` nobody's field is taken over. Raises :class:`Conflict` where that would be needed, and where
        ``body`` has a ``metadata.uid`` that is not the object's.
        """
        resource, metadata = BY_KIND[body["kind"]], body["metadata"]
        made: Object = await self.requester.send(
            Request(
                "PATCH",
                resource.path(metadata["namespace"], metadata["name"]),
                body=body,
                content_type=APPLY,
                params={"fieldManager": FIELD_MANAGER, "force": "true" if force else "false"},
            )
        )
        return made

    async def merge(self, resource: Resource, namespace: str, name: str, body: Object) -> Object:
        """A JSON merge patch. With a UID or resource version in its metadata that is not so: :class:`Conflict`."""
        made: Object = await self.requester.send(
            Request(
                "PATCH",
                resource.path(namespace, name),
                body=body,
                content_type=MERGE,
                params={"fieldManager": FIELD_MANAGER},
            )
        )
        return made

    async def replace_status(
        self, resource: Resource, namespace: str, name: str, uid: str, resource_version: str, status: Object
    ) -> Object:
        """Write a whole status onto the object with this UID in this state. Raises :class:`Conflict` for any other."""
        metadata = {"namespace": namespace, "name": name, "uid": uid, "resourceVersion": resource_version}
        made: Object = await self.requester.send(
            Request(
                "PUT",
                resource.path(namespace, name, "status"),
                body={
                    "apiVersion": resource.api_version,
                    "kind": resource.kind,
                    "metadata": metadata,
                    "status": status,
                },
                params={"fieldManager": FIELD_MANAGER},
            )
        )
        return made

    async def scale(self, namespace: str, name: str, uid: str, replicas: int) -> Object:
        """Set the replicas of the Deployment with this UID, and nothing else of it. Raises :class:`Conflict`.

        The scale subresource would answer with the scale alone, and the Deployment would have to be read after it.
        """
        body = {"metadata": {"uid": uid}, "spec": {"replicas": replicas}}
        return await self.merge(DEPLOYMENTS, namespace, name, body)

    async def delete(self, resource: Resource, namespace: str, name: str, uid: str) -> bool:
        """Delete the object with this UID, its dependants in the background; False where it was already gone.

        Raises :class:`Conflict` where another object has the name now.
        """
        body = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "propagationPolicy": "Background",
            "preconditions": {"uid": uid},
        }
        try:
            await self.requester.send(Request("DELETE", resource.path(namespace, name), body=body))
        except NotFound:
            return False
        return True


class Blocking:
    """:class:`Requester`'s exchange for a thread that is not the event loop's: TorchX calls us synchronously."""

    def __init__(self, requester: Requester, loop: asyncio.AbstractEventLoop) -> None:
        self._requester = requester
        self._loop = loop

    def send(self, request: Request) -> Any:
        """As :meth:`Requester.send`, waiting for the answer. Raises :class:`Transient` where the loop gives none."""
        work: Coroutine[Any, Any, Any] = self._requester.send(request)
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(REQUEST_SECONDS + 5)
        except TimeoutError as error:
            future.cancel()
            raise Transient(f"{request}: no answer", unknown_outcome=request.method != "GET") from error
