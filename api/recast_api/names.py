"""Every name, label and path that two parts of Recast must agree on.

Names are deterministic: that makes creation idempotent.

==========================  ======================================================================================
``fm-<model>-r<run>-a<n>``  the Job and headless Service of one training attempt
``fm-<model>-v<version>``   the ModelVersion that the run lands
``fm-<model>-l<lineage>``   Deployment, headless Service, PodDisruptionBudget and NetworkPolicy of a foundation lineage
``em-<model>``              Service and PodDisruptionBudget of an expert, over the pods of all its revisions
``em-<model>-<revision>``   the Deployment of one revision of an expert
==========================  ======================================================================================
"""

from __future__ import annotations

from typing import Literal

Kind = Literal["FoundationModel", "ExpertModel"]
PLURALS: dict[str, str] = {
    "FoundationModel": "foundationmodels",
    "ExpertModel": "expertmodels",
    "ModelVersion": "modelversions",
}
"""What the three kinds are called in the apiserver's paths."""

_PREFIX: dict[str, str] = {"FoundationModel": "fm", "ExpertModel": "em"}

FIELD_MANAGER = "recast"
FINALIZER_IN_USE = "recast.dev/in-use"

LABEL_KIND = "recast.dev/kind"
LABEL_MODEL = "recast.dev/model"
LABEL_RUN = "recast.dev/run"
LABEL_ATTEMPT = "recast.dev/attempt"
LABEL_REVISION = "recast.dev/revision"
LABEL_LINEAGE = "recast.dev/lineage"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGED_BY = "recast"
TRAINERS: dict[Kind, str] = {"FoundationModel": "foundation-trainer", "ExpertModel": "expert-trainer"}
"""Value of :data:`LABEL_KIND` on the Jobs of a kind of model, and on their pods."""

ANNOTATION_TEMPLATE_HASH = "recast.dev/template-hash"
"""Hash of the user-visible input a child was made from; a child is rewritten only when this differs."""

ANNOTATION_LAST_APPLIED = "recast.dev/last-applied"
"""What was applied, as JSON with a digest: what the live object is compared with."""
ANNOTATION_REPAIRS = "recast.dev/repairs"
"""How many times in a row a child that somebody keeps changing was put back."""

TRAINER_SERVICE_ACCOUNT = "recast-trainer"
SERVER_SERVICE_ACCOUNT = "recast-server"

RUN_AS_USER = 65532
"""User and group id of every pod: without a name, a password or a home. The images' Dockerfiles and the chart agree."""

MODELS_MOUNT = "/var/recast/models"
DATA_MOUNT = "/var/recast/data"
SCRATCH_MOUNT = "/tmp"
"""An emptyDir: beside the volumes the only writable path of a pod."""

ITEMS_MOUNT = "/var/recast/items"
"""The volume with the file of new items."""
HISTORIES_MOUNT = "/var/recast/histories"
"""The volume of an embedded store of histories."""
ANSWERS_MOUNT = "/var/recast/answers"
"""The volume of a log of answers; each expert has a folder in it, and in that each pod."""
HISTORIES_AUTHORITY_MOUNT = "/var/recast/histories-authority"
HISTORIES_PASSWORD_ENV = "RECAST_HISTORIES_PASSWORD"
"""From a Secret; it stands in no configuration and no log."""

RUN_ENV = "RECAST_RUN"
SERVER_ENV = "RECAST_SERVER"

EXPERT_PORT = 8080
ADMIN_PORT = 8081
"""Health and metrics, on a port of their own, so that draining and connection limits never hide a server's state."""
FOUNDATION_GRPC_PORT = 8082
EXPERT_GRPC_PORT = 9000
"""The Open Inference Protocol over gRPC."""
RENDEZVOUS_PORT = 29500

HEADER_REVISION = "x-recast-revision"
HEADER_VERSION = "x-recast-version"
HEADER_TAE = "x-recast-tae"
HEADER_HISTORY = "x-recast-history"
"""Where the user's history came from: ``inline``, ``store`` or ``artifact``."""
HEADER_HISTORY_STATE = "x-recast-history-state"
"""``fresh``, or ``stale`` where what it knows is older than ``spec.serving.histories.maxAge``."""
HEADER_HISTORY_AGE = "x-recast-history-age"
"""Seconds that what is known of the user is old; not there where the client sent the history."""
HEADER_IDEMPOTENCY_KEY = "idempotency-key"
HEADER_REQUEST_ID = "x-request-id"
HEADER_TIMEOUT = "x-envoy-expected-rq-timeout-ms"
"""How long the client waits, in milliseconds: Envoy sets it by itself, others may."""
HEADER_INFERENCE_LENGTH = "inference-header-content-length"
"""Bytes of JSON at the begin of a body of the Open Inference Protocol that has binary tensors after it."""


def prefix(kind: Kind) -> str:
    """``fm`` or ``em``."""
    return _PREFIX[kind]


def job(kind: Kind, model: str, run: int, attempt: int) -> str:
    """The Job (and its headless Service) of one attempt."""
    return f"{prefix(kind)}-{model}-r{run}-a{attempt}"


def version(kind: Kind, model: str, number: int) -> str:
    """The ModelVersion a run lands."""
    return f"{prefix(kind)}-{model}-v{number}"


def pair(version: int, foundation: str, foundation_version: int, expected: str) -> str:
    """``v2@fm2``: expert and foundation version; ``v2@home-fm/2`` where that foundation is not the ``expected`` one."""
    read = f"fm{foundation_version}" if foundation == expected else f"{foundation}/{foundation_version}"
    return f"v{version}@{read}"


def lineage_server(model: str, lineage: int) -> str:
    """Deployment of a foundation lineage, and what stands beside it."""
    return f"fm-{model}-l{lineage}"


def expert_service(model: str) -> str:
    """The one address of an expert, independent of versions and revisions."""
    return f"em-{model}"


def revision_deployment(model: str, revision: str) -> str:
    """The Deployment of one revision."""
    return f"em-{model}-{revision}"


def artifact_path(kind: Kind, model: str, uid: str, number: int) -> str:
    """Folder of an artefact inside the model's storage. The UID keeps a re-created model apart from old files."""
    return f"{prefix(kind)}/{model}/{uid}/v{number}"


def checkpoint_path(kind: Kind, model: str, uid: str, number: int) -> str:
    """Folder of a run's checkpoints: attempts of one run share it, so that the next resumes where the last stopped."""
    return f"{prefix(kind)}/{model}/{uid}/runs/r{number}"
