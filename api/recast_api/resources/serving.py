"""How models are served. The template of an expert's server is part of its revision."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from recast_api.base import Image, Wire
from recast_api.resources.common import Resources


class FoundationServing(Wire):
    """The foundation's servers: one Deployment and one Service a lineage."""

    image: Image
    replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    resources: Resources = Field(default_factory=Resources)
    termination_grace_period_seconds: Annotated[int, Field(ge=5, le=600)] = 30


class ExpertServing(Wire):
    """An expert's servers: one Deployment a revision, all behind one Service."""

    image: Image
    replicas: Annotated[int, Field(ge=1, le=1000)] = 2
    resources: Resources = Field(default_factory=Resources)
    slo_milliseconds: Annotated[int, Field(ge=1, le=60000)] = Field(
        default=200,
        description="A request slower than this counts as slow; a bucket edge of the latency histogram sits here.",
    )
    foundation_deadline_milliseconds: Annotated[int, Field(ge=1, le=60000)] = Field(
        default=100, description="How long a request waits for its TAE before it falls back to the absent vector."
    )
    max_connection_age_seconds: Annotated[int, Field(ge=1, le=86400)] = Field(
        default=30,
        description="A kept-alive connection is closed after this, so that weights reach clients that never reconnect.",
    )
    termination_grace_period_seconds: Annotated[int, Field(ge=5, le=600)] = 30
