"""How models are served. The template of an expert's server is part of its revision."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from recast_api.base import Image, Wire
from recast_api.resources.common import Resources


class FoundationServing(Wire):
    """The foundation's servers: one Deployment and one Service per lineage."""

    image: Image
    """The server's image, with its registry; a digest is as good as a tag."""
    replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """Pods per lineage."""
    resources: Resources = Field(default_factory=Resources)
    """Requests and limits of each pod's container."""
    kv_cache_mebibytes: Annotated[int, Field(ge=0, le=1048576)] | None = None
    """Room in each pod for keys and values of users' histories, which are then computed once. 0 keeps none between
    calls. By default a half of what the memory limit leaves, at most 256."""
    termination_grace_period_seconds: Annotated[int, Field(ge=5, le=600)] = 30
    """How long a pod that is to end may take to finish its requests."""


class ExpertServing(Wire):
    """An expert's servers: one Deployment per revision, all behind one Service."""

    image: Image
    """The server's image, with its registry; a digest is as good as a tag."""
    replicas: Annotated[int, Field(ge=1, le=1000)] = 2
    """Pods that together serve all of the traffic. A canary's weight is a share of them."""
    resources: Resources = Field(default_factory=Resources)
    """Requests and limits of each pod's container."""
    slo_milliseconds: Annotated[int, Field(ge=1, le=60000)] = 200
    """A request slower than this counts as slow; a bucket edge of the latency histogram sits here. A request whose
    client does not say how long it waits is refused where it could not be answered in nine tenths of it."""
    foundation_deadline_milliseconds: Annotated[int, Field(ge=1, le=60000)] = 100
    """How long a request waits for its TAE before it falls back to what its user had before, or to none. Give less than
    sloMilliseconds: more counts only for clients that say that they wait for longer than that, and makes their requests
    slow ones."""
    tae_cache_seconds: Annotated[int, Field(ge=0, le=86400)] = 60
    """How old a TAE may be that stands in for one that does not come in time. 0: none does."""
    tae_cache_mebibytes: Annotated[int, Field(ge=0, le=65536)] = 64
    """Memory of each pod for such TAE; part of what resources.limits.memory must hold."""
    max_connection_age_seconds: Annotated[int, Field(ge=1, le=86400)] = 30
    """A kept-alive connection is closed after this, so that weights reach clients that never reconnect."""
    termination_grace_period_seconds: Annotated[int, Field(ge=5, le=600)] = 30
    """How long a pod that is to end may take to finish its requests."""
