"""The writes of one pass, each bound to the objects that the pass observed.

Between the observation and a write lie other people's writes, and a wait for Prometheus. So every write carries the
identity that the *snapshot* had, never what the memory holds by the time it is sent: UID and resource version of the
model and its versions, the UID of a child. Where something else is there by now the apiserver answers with a conflict,
nothing has happened, and the pass observes again. All of it goes through :meth:`Writer._send`: the place where a lease
will stand, so that a former leader's pass ends here.

A name that the memory does not know may still be taken: by somebody's own Service, or by a child whose labels were
removed. So the first apply of a name is preceded by a GET (:meth:`Writer.look`), takes over nobody's field, and is
undone where somebody made the object in the moment between the two.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from recast_api.base import Status
from recast_api.names import FIELD_MANAGER
from recast_api.reading import preserved
from recast_api.resources import ExpertModelStatus, FoundationModelStatus
from recast_operator.adapters.child_apply import apply_child, as_admitted
from recast_operator.adapters.errors import Blocked, Conflict, Invalid, NotFound
from recast_operator.adapters.kube import BY_KIND, JOBS, VERSIONS, Kube, Resource
from recast_operator.adapters.objects import Object
from recast_operator.keys import Key
from recast_operator.metrics import Metrics
from recast_operator.planning.plan import Apply, Deletion, Scale, SubmitRun, VersionWrite
from recast_operator.store import Address, Doubts, Store, Stored, stored

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Submits(Protocol):
    """Submits training runs; see :class:`recast_operator.adapters.torchx.Launcher`."""

    async def submit(self, namespace: str, request: SubmitRun) -> str:
        """Create or adopt the Job of one attempt."""
        ...


@dataclass(frozen=True)
class Fence:
    """Which object, in which state, a write may change."""

    uid: str
    resource_version: str


@dataclass(frozen=True)
class Outside:
    """What a writer works with."""

    store: Store
    doubts: Doubts
    kube: Kube
    launcher: Submits
    metrics: Metrics


class Writer:
    """Writes for one pass over ``key``; ``objects`` are those of its snapshot."""

    def __init__(self, key: Key, objects: Mapping[Address, Stored], outside: Outside) -> None:
        self.key = key
        self._objects = dict(objects)
        self._outside = outside
        self._fences = {
            address: Fence(entry.uid, entry.resource_version)
            for address, entry in objects.items()
            if address.kind in (key.kind, "ModelVersion")
        }
        self._free: set[Address] = set()
        self.gone = False
        """Whether the model went with its last finalizer, so that there is nothing left to write."""

    @property
    def uid(self) -> str:
        """The model's UID."""
        return self._fences[Address(*self.key)].uid

    @property
    def generation(self) -> int:
        """The model's generation, as observed."""
        return self._objects[Address(*self.key)].generation

    async def look(self, children: Iterable[Apply]) -> None:
        """Before anything is written: GET each child's name that the snapshot does not know.

        Raises :class:`Blocked` where one is there, or is known, that this model does not own.
        """
        for child in children:
            address = _address(child.body)
            if address not in self._objects:
                try:
                    found = await self._outside.kube.get(BY_KIND[address.kind], address.namespace, address.name)
                except NotFound:
                    self._free.add(address)
                    continue
                self._objects[address] = stored(address.kind, found)
            if self._objects[address].controller_uid != self.uid:
                raise self._taken(address)

    async def finalizers(self, wanted: tuple[str, ...]) -> None:
        """Replace the model's finalizers."""
        address = Address(*self.key)
        metadata = self._fenced(address) | {"finalizers": list(wanted)}
        resource = BY_KIND[address.kind]
        body = {"metadata": metadata}
        made = await self._send(address, self._outside.kube.merge(resource, address.namespace, address.name, body))
        if made["metadata"].get("deletionTimestamp") and not made["metadata"].get("finalizers"):
            # That was the last one: the answer shows an object that is no more, perhaps after its watch has said so.
            self._outside.store.deleted(*address, made["metadata"]["uid"])
            self.gone = True
            return
        self._wrote(address, made)

    async def version(self, write: VersionWrite) -> None:
        """Adopt a version, and write its verdict."""
        address = Address("ModelVersion", self.key.namespace, write.name)
        if write.owner is not None:
            raw = self._objects[address].raw()
            owners = raw["metadata"].get("ownerReferences") or []
            if write.owner["uid"] not in {owner["uid"] for owner in owners}:
                metadata = self._fenced(address) | {"ownerReferences": [*owners, write.owner]}
                merge = self._outside.kube.merge(VERSIONS, address.namespace, address.name, {"metadata": metadata})
                self._wrote(address, await self._send(address, merge))
        if write.status is not None:
            await self._status(VERSIONS, address, write.status)

    async def status(self, status: FoundationModelStatus | ExpertModelStatus) -> None:
        """Write the model's status."""
        await self._status(BY_KIND[self.key.kind], Address(*self.key), status)

    async def apply(self, child: Apply) -> None:
        """Create a child or rewrite it. :meth:`look` has been called with it."""
        body, address = child.body, _address(child.body)
        logger.info("%s: apply %s: %s", self.key, address, child.why)
        if address in self._free:
            made = await self._send(address, self._create(address, body))
        else:
            fenced = {**body, "metadata": {**body["metadata"], "uid": self._objects[address].uid}}
            made = await self._send(address, apply_child(self._outside.kube, fenced))
        self._outside.store.put(address.kind, made)

    async def _create(self, address: Address, body: Object) -> Object:
        kube = self._outside.kube
        made = await kube.apply(body, force=False)
        if strangers := _strangers(made):
            await kube.apply(_nothing_of(body))
            raise Conflict(f"{address} was made by {', '.join(strangers)} meanwhile; nothing of it was changed")
        return await as_admitted(kube, body, made)

    async def scale(self, scale: Scale) -> None:
        """Set a Deployment's replicas."""
        address = Address("Deployment", self.key.namespace, scale.name)
        logger.info("%s: scale %s to %d: %s", self.key, address, scale.replicas, scale.why)
        entry = self._mine(address)
        write = self._outside.kube.scale(address.namespace, address.name, entry.uid, scale.replicas)
        self._outside.store.put(address.kind, await self._send(address, write))

    async def submit(self, request: SubmitRun) -> None:
        """Submit a training attempt."""
        address = Address("Job", self.key.namespace, request.run.job_name)
        await self._send(address, self._outside.launcher.submit(self.key.namespace, request))
        await self._read(JOBS, address)

    async def delete(self, deletion: Deletion) -> None:
        """Delete a child of the snapshot."""
        address = Address(deletion.kind, self.key.namespace, deletion.name)
        logger.info("%s: delete %s: %s", self.key, address, deletion.why)
        entry, resource = self._mine(address), BY_KIND[deletion.kind]
        await self._send(address, self._outside.kube.delete(resource, address.namespace, address.name, entry.uid))
        if entry.has_finalizers:
            await self._read(resource, address)
        else:
            self._outside.store.deleted(*address, entry.uid)

    async def _status(self, resource: Resource, address: Address, status: Status) -> None:
        fence, place = self._fences[address], (resource, address.namespace, address.name)
        # A field that a newer operator wrote, and that this one does not know, stays.
        whole = preserved(status, self._objects[address].raw().get("status"))
        put = self._outside.kube.replace_status(*place, fence.uid, fence.resource_version, whole)
        self._wrote(address, await self._send(address, put))
        self._outside.metrics.status_written(resource.kind)

    def _fenced(self, address: Address) -> Object:
        fence = self._fences[address]
        return {"uid": fence.uid, "resourceVersion": fence.resource_version}

    def _wrote(self, address: Address, made: Object) -> None:
        """Our own write moves the fence on."""
        metadata = made["metadata"]
        self._fences[address] = Fence(metadata["uid"], metadata["resourceVersion"])
        self._outside.store.put(address.kind, made)

    def _mine(self, address: Address) -> Stored:
        entry = self._objects.get(address)
        if entry is None or entry.controller_uid != self.uid:
            raise Conflict(f"{address} is no child of {self.key} that this pass has seen")
        return entry

    def _taken(self, address: Address) -> Blocked:
        return Blocked(
            f'{address.kind} "{address.name}" in namespace {address.namespace} exists and is not owned by this model; '
            "delete it or rename the model"
        )

    async def _send(self, address: Address, write: Awaitable[T]) -> T:
        """Await a write. Unless the apiserver has plainly refused it, its object is read before the next plan."""
        try:
            return await write
        except (Invalid, Blocked):
            raise
        except BaseException:
            self._outside.doubts.add(self.key, address)
            raise

    async def _read(self, resource: Resource, address: Address) -> None:
        try:
            found = await self._send(address, self._outside.kube.get(resource, address.namespace, address.name))
        except NotFound:
            return
        self._outside.store.put(resource.kind, found)


def _address(child: Object) -> Address:
    return Address(child["kind"], child["metadata"]["namespace"], child["metadata"]["name"])


def _strangers(made: Object) -> list[str]:
    """Who else manages fields of an object that only just came into being, status aside."""
    entries: list[dict[str, Any]] = made["metadata"].get("managedFields") or []
    return sorted(
        {entry["manager"] for entry in entries if entry["manager"] != FIELD_MANAGER and not entry.get("subresource")}
    )


def _nothing_of(child: Object) -> Object:
    """Applied, this takes back every field that only we manage."""
    metadata = child["metadata"]
    return {
        "apiVersion": child["apiVersion"],
        "kind": child["kind"],
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
    }
