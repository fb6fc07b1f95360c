"""The contract between the operator and a server pod: its configuration in the environment, its metrics by name.

The operator's analysis reads these metrics by name and by the pod's revision label (which Prometheus takes from the
pod, never from what the pod reports), so both sides take the names from here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from recast_api.base import Digest, Name, RelativePath, Wire
from recast_api.resources.expert import Task
from recast_api.resources.version import FoundationPin


class ServedArtifact(Wire):
    """The version a server loads; it starts only if the bytes agree with the digest."""

    root: str
    path: RelativePath
    version: Annotated[int, Field(ge=1)]
    lineage: Annotated[int, Field(ge=1)]
    digest: Digest


Grace = Annotated[int, Field(ge=1)]
"""Seconds from SIGTERM to SIGKILL: the pod's grace period, less the preStop that comes out of it."""


class FoundationServerConfig(Wire):
    """``RECAST_SERVER`` of a foundation's server."""

    kind: Literal["FoundationModel"] = "FoundationModel"
    namespace: str
    model: Name
    artifact: ServedArtifact
    grace_seconds: Grace = 25


class ExpertServerConfig(Wire):
    """``RECAST_SERVER`` of an expert's server."""

    kind: Literal["ExpertModel"] = "ExpertModel"
    namespace: str
    model: Name
    surface: str
    revision: str
    tasks: list[Task]
    artifact: ServedArtifact
    foundation: FoundationPin
    foundation_address: str
    """``host:port`` of the foundation lineage's Service."""
    slo_milliseconds: int
    foundation_deadline_milliseconds: int
    max_connection_age_seconds: int
    grace_seconds: Grace = 25


REQUESTS_TOTAL = "recast_requests_total"
"""Counter. Scoring requests, of whichever interface, by ``code``, the HTTP status: what verdicts on a revision rest
on."""
OTHER_REQUESTS_TOTAL = "recast_other_requests_total"
"""Counter. What else reached an expert's port, by ``code``: other paths and methods, bytes that are no HTTP,
connections beyond the limit. A port scan must not make a revision look better or worse than it is."""
CLIENT_GONE = 499
"""The code of a request whose client hung up before its answer: nginx's number, since HTTP has none for it."""
CLIENT_DISCONNECTS_TOTAL = "recast_client_disconnects_total"
"""Counter. Scoring requests whose client hung up before the answer. None of them is in any other counter, but for those
that had waited for longer than the SLO."""
REQUESTS_IN_FLIGHT = "recast_requests_in_flight"
"""Gauge. Scoring requests (an expert's) or TAE calls (a foundation's) that wait for their answer now."""
REQUEST_SECONDS = "recast_request_duration_seconds"
"""Histogram. Wall time of scoring requests; one bucket edge is the SLO."""
SLOW_TOTAL = "recast_slow_requests_total"
"""Counter. Scoring requests slower than the SLO."""
TAE_TOTAL = "recast_tae_total"
"""Counter. Answered scoring requests by ``state``: where their TAE came from."""
TAE_FRESH = "fresh"
TAE_ABSENT = "absent"
FOUNDATION_CALLS_TOTAL = "recast_foundation_calls_total"
"""Counter. TAE calls that an expert made, by ``code``, the gRPC status name."""
FOUNDATION_CALL_SECONDS = "recast_foundation_call_duration_seconds"
"""Histogram. Wall time of these, as the expert saw it."""
FOUNDATION_REQUESTS_TOTAL = "recast_foundation_requests_total"
"""Counter. TAE calls that a foundation answered, by ``code``, the gRPC status name."""
FOUNDATION_SECONDS = "recast_foundation_duration_seconds"
"""Histogram. Wall time of these, as the foundation saw it."""
LOG_LINES_DROPPED_TOTAL = "recast_log_lines_dropped_total"
"""Counter. Lines of the log that were dropped because nobody read it in time."""
QUEUE_REQUESTS = "recast_queue_requests"
"""Gauge. Requests admitted to the model and not answered by it yet."""
QUEUE_WAIT_SECONDS = "recast_queue_wait_seconds"
"""Histogram. How long requests waited for the model before they ran."""
BATCH_REQUESTS = "recast_batch_requests"
"""Histogram. Requests of a batch."""
BATCH_SECONDS = "recast_batch_duration_seconds"
"""Histogram. Wall time of batches."""
QUEUE_REFUSED_TOTAL = "recast_queue_refused_total"
"""Counter. Requests that were not admitted, by ``reason``: ``full``, or ``late``, could not be answered in time."""
QUEUE_DROPPED_TOTAL = "recast_queue_dropped_total"
"""Counter. Admitted requests that never ran, by ``reason``: ``late``, or ``abandoned`` by who asked."""
CODES = ("200", "400", "413", "415", "422", "499", "500", "503")
"""Codes of scoring requests that exist at zero from the start: a rate over one that appears at 1 misses its first."""
OTHER_CODES = ("200", "400", "404", "405", "503")
"""The same, of other requests."""
