"""Create the ModelVersion: the object whose existence says that a version landed.

The pod's own service account may create ModelVersions and nothing else; admission ties them to the pod's Job.
409 is the normal answer to a retry: the same digest is success, another digest is a conflict that nobody may resolve
by overwriting.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from recast_api import names
from recast_api.manifest import Manifest
from recast_api.resources.common import GROUP, VERSION, ObjectMeta
from recast_api.resources.version import ModelReference, ModelVersion, ModelVersionSpec, TrainingRunRef
from recast_api.run import RecastError, TrainingRun

ATTEMPTS = 6
PLURAL = names.PLURALS["ModelVersion"]
CONFLICT = 409
TRANSIENT = frozenset({0, 429, 500, 502, 503, 504})


class ApiError(Exception):
    """An answer of the apiserver other than success; status 0 is no answer at all."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class VersionApi(Protocol):
    """The two calls that landing needs. Both raise :class:`ApiError`."""

    def create(self, namespace: str, body: dict[str, Any]) -> None:
        """Create a ModelVersion."""

    def get(self, namespace: str, name: str) -> dict[str, Any]:
        """Read a ModelVersion."""


def model_version(run: TrainingRun, manifest: Manifest) -> ModelVersion:
    """The object for an artefact. It names the run that *publishes*, which admission checks against the pod."""
    return ModelVersion(
        metadata=ObjectMeta(name=names.version(run.kind, run.model, run.number), namespace=run.namespace),
        spec=ModelVersionSpec(
            model=ModelReference(kind=run.kind, name=run.model, uid=run.uid),
            number=run.number,
            lineage=manifest.lineage,
            digest=manifest.digest,
            path=names.artifact_path(run.kind, run.model, run.uid, run.number),
            watermark=manifest.watermark,
            foundation=manifest.foundation,
            baseline=manifest.baseline,
            run=TrainingRunRef(job_name=run.job_name, attempt=run.attempt, inputs_hash=run.inputs_hash),
            finite=manifest.finite,
            tasks=manifest.tasks if run.kind == "ExpertModel" else [],
            measurements=manifest.measurements,
            aggregate=manifest.aggregate,
            tail=manifest.tail,
        ),
    )


def publish(
    api: VersionApi, run: TrainingRun, manifest: Manifest, *, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Create the ModelVersion; repeated calls with the same artefact succeed.

    Raises ``VersionConflict``, ``VersionRefused`` or, retryable, ``ApiUnavailable``.
    """
    version = model_version(run, manifest)
    name = version.metadata.name
    body = {
        "apiVersion": version.api_version,
        "kind": version.kind,
        "metadata": {
            "name": name,
            "namespace": run.namespace,
            "labels": {names.LABEL_KIND: run.kind, names.LABEL_MODEL: run.model},
            # Gone with its model, from the first moment on. Not blockOwnerDeletion, which asks for more rights.
            "ownerReferences": [
                {
                    "apiVersion": f"{GROUP}/{VERSION}",
                    "kind": run.kind,
                    "name": run.model,
                    "uid": run.uid,
                    "controller": True,
                }
            ],
        },
        "spec": version.spec.wire(),
    }
    last = ApiError(0, "")
    for attempt in range(ATTEMPTS):
        try:
            api.create(run.namespace, body)
            return
        except ApiError as error:
            last = error
        if last.status == CONFLICT:
            _same_or_conflict(api, run.namespace, name, manifest.digest)
            return
        if last.status not in TRANSIENT:
            raise RecastError(
                "VersionRefused", f"the apiserver refused ModelVersion {name} with {last.status}: {last}"
            ) from last
        if attempt + 1 < ATTEMPTS:
            sleep(0.5 * 2**attempt)
    raise RecastError(
        "ApiUnavailable",
        f"cannot create ModelVersion {name}: {last}; the artefact is complete, the next attempt only publishes it",
        retryable=True,
    ) from last


def _same_or_conflict(api: VersionApi, namespace: str, name: str, digest: str) -> None:
    try:
        there = api.get(namespace, name)["spec"]["digest"]
    except ApiError as error:
        raise RecastError(
            "ApiUnavailable", f"ModelVersion {name} exists but cannot be read: {error}", retryable=True
        ) from error
    if there != digest:
        raise RecastError(
            "VersionConflict",
            f"ModelVersion {name} exists with digest {there}, this run landed {digest}: version numbers are never "
            "reused; delete the wrong ModelVersion or let the operator reserve the next number",
        )


class ClusterVersionApi:
    """The apiserver as the pod's service account sees it."""

    def __init__(self) -> None:
        from kubernetes import client, config  # slow to import, and needed only here

        try:
            config.load_incluster_config()
        except config.ConfigException as error:
            raise RecastError(
                "NoCluster",
                f"not inside a pod ({error}); outside a cluster use --no-publish, which lands the artefact only",
            ) from error
        self._errors = client.ApiException
        self._objects = client.CustomObjectsApi()

    def create(self, namespace: str, body: dict[str, Any]) -> None:
        """Create a ModelVersion."""
        self._call(self._objects.create_namespaced_custom_object, GROUP, VERSION, namespace, PLURAL, body)

    def get(self, namespace: str, name: str) -> dict[str, Any]:
        """Read a ModelVersion."""
        found: dict[str, Any] = self._call(
            self._objects.get_namespaced_custom_object, GROUP, VERSION, namespace, PLURAL, name
        )
        return found

    def _call(self, method: Callable[..., Any], *arguments: Any) -> Any:
        import urllib3

        try:
            return method(*arguments, _request_timeout=20)
        except self._errors as error:
            raise ApiError(int(error.status or 0), str(error.body or error.reason)) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ApiError(0, f"{type(error).__name__}: {error}") from error
