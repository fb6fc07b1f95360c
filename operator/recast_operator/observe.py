"""From remembered objects to the frozen snapshot that planning reads, and from an event to the keys it concerns.

Nothing here decides. What the apiserver holds as JSON becomes the values of :mod:`recast_operator.planning.snapshot`,
with as little interpretation as possible: which pods belong to which Deployment. What a training run's launcher says
is translated by its adapter, such as :mod:`recast_operator.adapters.job_runs`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

from pydantic import ValidationError

from recast_api import names
from recast_api.names import Kind
from recast_api.resources import ExpertModel, FoundationModel, ModelVersion
from recast_operator.adapters.errors import Invalid
from recast_operator.adapters.job_runs import observed_run
from recast_operator.adapters.objects import Object, controller_uid, label_number, labels
from recast_operator.adapters.pods import observed_pod
from recast_operator.planning.projections import fleet_member, foundation_view, unreadable_member
from recast_operator.planning.snapshot import (
    Children,
    FleetMember,
    FoundationView,
    ObservedDeployment,
    ObservedExpert,
    ObservedFoundation,
    ObservedService,
)
from recast_operator.store import Store

logger = logging.getLogger(__name__)

ModelT = TypeVar("ModelT", FoundationModel, ExpertModel, ModelVersion)


class Key(NamedTuple):
    """What is reconciled: one model."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


class Observer:
    """Reads a :class:`Store`; remembers parsed models, since most have not changed between two passes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._parsed: dict[tuple[str, str], tuple[str, FoundationModel | ExpertModel | ModelVersion]] = {}

    def models(self) -> Iterator[Key]:
        """All models there are."""
        kinds: tuple[Kind, ...] = ("FoundationModel", "ExpertModel")
        for kind in kinds:
            for namespace in self._store.namespaces(kind):
                for raw in self._store.of(kind, namespace):
                    yield Key(kind, namespace, raw["metadata"]["name"])

    def foundation(self, key: Key) -> ObservedFoundation | None:
        """The snapshot for a foundation; None where it is gone. Raises :class:`Invalid` for one that cannot be read."""
        raw = self._store.get(key.kind, key.namespace, key.name)
        if raw is None:
            return None
        experts = tuple(member for member in self._members(key.namespace) if _concerns(member, key.name))
        return ObservedFoundation(
            model=self._parse(FoundationModel, raw),
            versions=self._versions(key),
            children=self._children(key),
            experts=experts,
        )

    def expert(self, key: Key) -> ObservedExpert | None:
        """The snapshot for an expert, without samples; None where it is gone. Raises :class:`Invalid`."""
        raw = self._store.get(key.kind, key.namespace, key.name)
        if raw is None:
            return None
        model = self._parse(ExpertModel, raw)
        views, unreadable = self._views(key.namespace, foundations_of(model), key.name)
        return ObservedExpert(
            model=model,
            versions=self._versions(key),
            children=self._children(key),
            foundations=views,
            unreadable_foundations=frozenset(unreadable),
            foundation_names=tuple(raw["metadata"]["name"] for raw in self._store.of("FoundationModel", key.namespace)),
            foundation_versions=tuple(
                version
                for name in sorted(views)
                for version in self._versions(Key("FoundationModel", key.namespace, name))
            ),
        )

    def _members(self, namespace: str) -> Iterator[FleetMember]:
        for raw in self._store.of("ExpertModel", namespace):
            try:
                yield fleet_member(self._parse(ExpertModel, raw))
            except Invalid as error:
                logger.warning("read for its pins alone: %s", error)
                yield unreadable_member(raw)

    def _views(self, namespace: str, names_: set[str], expert: str) -> tuple[dict[str, FoundationView], list[str]]:
        views: dict[str, FoundationView] = {}
        unreadable: list[str] = []
        for name in sorted(names_):
            raw = self._store.get("FoundationModel", namespace, name)
            if raw is None:
                continue
            try:
                views[name] = foundation_view(self._parse(FoundationModel, raw), expert)
            except Invalid as error:
                logger.warning("%s", error)
                unreadable.append(name)
        return views, unreadable

    def concerned(self, kind: str, raw: Object) -> Iterator[Key]:
        """The keys whose plan an object is part of."""
        metadata = raw["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        if kind == "FoundationModel":
            yield Key("FoundationModel", namespace, name)
            for expert in self._store.of("ExpertModel", namespace):
                yield Key("ExpertModel", namespace, expert["metadata"]["name"])
        elif kind == "ExpertModel":
            yield Key("ExpertModel", namespace, name)
            for foundation in sorted(_foundations_of_raw(raw)):
                yield Key("FoundationModel", namespace, foundation)
        elif kind == "ModelVersion":
            model = raw.get("spec", {}).get("model", {})
            if model.get("kind") in ("FoundationModel", "ExpertModel"):
                yield Key(model["kind"], namespace, model.get("name", ""))
        elif (owner := kind_of_child(raw)) is not None:
            yield Key(owner, namespace, labels(raw).get(names.LABEL_MODEL, ""))

    def _versions(self, key: Key) -> tuple[ModelVersion, ...]:
        return tuple(
            version
            for version in self._all(ModelVersion, key.namespace)
            if version.spec.model.kind == key.kind and version.spec.model.name == key.name
        )

    def _all(self, model: type[ModelT], namespace: str) -> Iterator[ModelT]:
        for raw in self._store.of(model.__name__, namespace):
            try:
                yield self._parse(model, raw)
            except Invalid as error:
                # Another model's mistake must not stop this one's pass; its own pass reports it.
                logger.warning("left out of the snapshot: %s", error)

    def _parse(self, model: type[ModelT], raw: Object) -> ModelT:
        metadata = raw["metadata"]
        version, identity = metadata["resourceVersion"], (model.__name__, metadata["uid"])
        cached = self._parsed.get(identity)
        if cached is not None and cached[0] == version and isinstance(cached[1], model):
            return cached[1]
        try:
            parsed = model.model_validate({**raw, "metadata": _plain(metadata)})
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise Invalid(
                f"{model.__name__} {metadata['namespace']}/{metadata['name']}: {where}: {first['msg']}; correct it, or "
                "install the CustomResourceDefinitions of this operator's version"
            ) from error
        self._parsed[identity] = (version, parsed)
        return parsed

    def forget(self, kind: str, uid: str) -> None:
        """Drop what was parsed of an object that is gone."""
        self._parsed.pop((kind, uid), None)

    def _children(self, key: Key) -> Children:
        def mine(kind: str) -> list[Object]:
            return [
                raw
                for raw in self._store.of(kind, key.namespace)
                if kind_of_child(raw) == key.kind and labels(raw).get(names.LABEL_MODEL) == key.name
            ]

        pods = mine("Pod")
        return Children(
            runs=tuple(observed_run(raw, pods) for raw in mine("Job")),
            deployments=tuple(observed_deployment(raw, pods) for raw in mine("Deployment")),
            services=tuple(
                ObservedService(raw["metadata"]["name"], controller_uid(raw), template_hash(raw))
                for raw in mine("Service")
                # A training run's own Service comes and goes with its Job.
                if not labels(raw)[names.LABEL_KIND].endswith("-trainer")
            ),
        )


def kind_of_child(raw: Object) -> Kind | None:
    """Which kind of model a child's label says it belongs to."""
    kind = labels(raw).get(names.LABEL_KIND, "")
    if kind.startswith("foundation"):
        return "FoundationModel"
    return "ExpertModel" if kind.startswith("expert") else None


def foundations_of(expert: ExpertModel) -> set[str]:
    """The foundations that an expert refers to, or is pinned to by what it serves."""
    served = (expert.status.stable, expert.status.canary)
    return {expert.spec.foundation_ref.name} | {item.foundation.name for item in served if item is not None}


def _concerns(member: FleetMember, foundation: str) -> bool:
    """Whether a foundation must look at this expert: it reads it, pins it, or cannot be read at all."""
    return (
        not member.readable
        or member.foundation == foundation
        or any(pin.foundation == foundation for pin in member.pins)
    )


def _foundations_of_raw(raw: Object) -> set[str]:
    status = raw.get("status") or {}
    pinned = {((status.get(part) or {}).get("foundation") or {}).get("name") for part in ("stable", "canary")}
    return {name for name in pinned | {raw.get("spec", {}).get("foundationRef", {}).get("name")} if name}


def template_hash(raw: Object) -> str:
    """Hash of the input that a child was made from."""
    found: str = (raw["metadata"].get("annotations") or {}).get(names.ANNOTATION_TEMPLATE_HASH, "")
    return found


def observed_deployment(raw: Object, pods: list[Object]) -> ObservedDeployment:
    """One Deployment with the pods that its selector selects."""
    spec, status = raw.get("spec") or {}, raw.get("status") or {}
    selector = ((spec.get("selector") or {}).get("matchLabels") or {}).items()
    mine = tuple(observed_pod(pod) for pod in pods if selector and selector <= labels(pod).items())
    return ObservedDeployment(
        name=raw["metadata"]["name"],
        owner_uid=controller_uid(raw),
        template_hash=template_hash(raw),
        lineage=label_number(raw, names.LABEL_LINEAGE),
        revision=labels(raw).get(names.LABEL_REVISION, ""),
        replicas=spec.get("replicas", 1),
        ready=sum(pod.ready for pod in mine),
        updated=status.get("updatedReplicas", 0),
        current=status.get("observedGeneration", 0) >= raw["metadata"].get("generation", 0),
        pods=mine,
    )


def _plain(metadata: Object) -> Object:
    """Metadata with absent lists and maps as absent: the apiserver may send null."""
    return {key: value for key, value in metadata.items() if value is not None}
