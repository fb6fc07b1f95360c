"""The contract between the operator and a server pod: its configuration in the environment, its metrics by name.

The operator's analysis reads these metrics by name and by the pod's revision label (which Prometheus takes from the
pod, never from what the pod reports), so both sides take the names from here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from recast_api.base import Digest, Fraction, Name, RelativePath, Wire
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


class ServedRedis(Wire):
    """A Redis or Valkey with users' histories. Its password is in :data:`recast_api.names.HISTORIES_PASSWORD_ENV`."""

    host: str
    port: int = 6379
    username: str | None = None
    tls: bool = False
    authority: str | None = None
    """PEM file of the authority that vouches for the server; absent: the system's own."""
    prefix: str = "recast"
    ttl_seconds: int = 0


class ServedVolume(Wire):
    """A folder with users' histories, on a volume of the pod's own."""

    path: str
    size_bytes: Annotated[int, Field(ge=1 << 20)]


class ServedHistories(Wire):
    """Where a server has users' histories from."""

    store: Literal["Artifact", "Embedded", "Redis"] = "Artifact"
    max_age_seconds: Annotated[int, Field(ge=1)] = 3600
    max_events: Annotated[int, Field(ge=4, le=32768)] = 2048
    redis: ServedRedis | None = None
    embedded: ServedVolume | None = None


class ServedItems(Wire):
    """A file of items that appeared after the version landed, with their content."""

    path: str
    every_seconds: Annotated[int, Field(ge=1)] = 60
    """How often it is looked at."""


class ServedAnswerLog(Wire):
    """The log of answers that an expert's server keeps."""

    path: str
    """Folder on a volume that this pod may write; others may share it."""
    share: Fraction = "0.1"
    """Share of the candidates that were not returned, of which each is logged with this probability."""
    window_milliseconds: Annotated[int, Field(ge=10)] = 1000
    """Within which an answer is on the disk."""
    roll_seconds: Annotated[int, Field(ge=1)] = 300
    """After which what was logged is a segment that others read."""
    max_bytes: Annotated[int, Field(ge=2**20)] = 2**30
    """Of all files of a pod."""
    buffer_mebibytes: Annotated[int, Field(ge=1)] = 32
    """Of answers in memory that wait for the disk."""


class FoundationServerConfig(Wire):
    """``RECAST_SERVER`` of a foundation's server."""

    kind: Literal["FoundationModel"] = "FoundationModel"
    namespace: str
    model: Name
    artifact: ServedArtifact
    grace_seconds: Grace = 25
    kv_cache_mebibytes: Annotated[int, Field(ge=0)] | None = None
    """For keys and values of users' histories; 0 keeps none between calls. By default a half of what the memory limit
    leaves, at most 256 MiB."""
    items: ServedItems | None = None
    """Absent: items that the version does not know stay unknown."""


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
    tae_cache_seconds: Annotated[int, Field(ge=0)] = 60
    tae_cache_mebibytes: Annotated[int, Field(ge=0)] = 64
    max_connection_age_seconds: int
    histories: ServedHistories | None = None
    """Absent: the defaults."""
    items: ServedItems | None = None
    """Absent: items that the version does not know stay unknown."""
    answer_log: ServedAnswerLog | None = None
    """Absent: none is kept, and no impressions are taken."""
    grace_seconds: Grace = 25

    @property
    def concern(self) -> str:
        """What of it is most likely a mistake; empty where nothing is.

        It is no error: the API took it before, and one who sets only ``sloMilliseconds`` meets the other's default.
        """
        if self.foundation_deadline_milliseconds < self.slo_milliseconds:
            return ""
        return (
            f"foundationDeadlineMilliseconds ({self.foundation_deadline_milliseconds}) is not shorter than"
            f" sloMilliseconds ({self.slo_milliseconds}): requests that wait so long for their TAE are slow ones, and"
            f" clients that name no deadline of their own never do; give less than {self.slo_milliseconds}"
        )


REQUESTS_TOTAL = "recast_requests_total"
"""Counter. Scoring requests, of whichever interface, by ``code``, the HTTP status: what verdicts on a revision rest
on."""
OTHER_REQUESTS_TOTAL = "recast_other_requests_total"
"""Counter. What else reached an expert's port, by ``code``: events, other paths and methods, bytes that are no HTTP,
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
TAE_FRESH, TAE_CACHED, TAE_POOLED, TAE_ABSENT = "fresh", "cached", "pooled", "absent"
TAE_STATES = (TAE_FRESH, TAE_CACHED, TAE_POOLED, TAE_ABSENT)
FOUNDATION_CALLS_TOTAL = "recast_foundation_calls_total"
"""Counter. TAE calls that an expert made, by ``code``, the gRPC status name."""
FOUNDATION_CALL_SECONDS = "recast_foundation_call_duration_seconds"
"""Histogram. Wall time of these, as the expert saw it."""
FOUNDATION_REPLICAS = "recast_foundation_replicas"
"""Gauge. Replicas of its foundation that an expert knows, by ``state``: ``used``, or ``ejected``."""
FOUNDATION_EJECTIONS_TOTAL = "recast_foundation_ejections_total"
"""Counter. How often one of them was ejected."""
FOUNDATION_REQUESTS_TOTAL = "recast_foundation_requests_total"
"""Counter. TAE calls that a foundation answered, by ``code``, the gRPC status name."""
FOUNDATION_SECONDS = "recast_foundation_duration_seconds"
"""Histogram. Wall time of these, as the foundation saw it."""
KV_REQUESTS_TOTAL = "recast_kv_requests_total"
"""Counter. TAE calls that had a history, by ``kept``: keys and values of ``all`` of it, of a ``part``, of ``none``."""
KV_EVENTS_TOTAL = "recast_kv_events_total"
"""Counter. Events of these histories by ``source``: ``kept`` from an earlier call, or ``computed``."""
KV_IDLE_SECONDS = "recast_kv_idle_seconds"
"""Histogram. How long what was reused had not been used before."""
KV_USERS = "recast_kv_users"
"""Gauge. Users of whose histories keys and values are kept."""
KV_USED_RATIO = "recast_kv_used_ratio"
"""Gauge. Share of the room for keys and values that is taken."""
KV_EVICTED_TOTAL = "recast_kv_evicted_total"
"""Counter. Users whose keys and values were given up, by ``cause``: ``capacity``, ``expired`` (unused for too long),
``replaced`` (another beginning of the window) or ``failed`` (the computation)."""
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
HISTORIES_TOTAL = "recast_histories_total"
"""Counter. Scoring requests by ``source`` of the user's history (``inline``, ``store``, ``artifact``) and ``state``:
``stale`` where what it knows is older than ``spec.serving.histories.maxAge``, else ``fresh``."""
HISTORY_INLINE, HISTORY_STORE, HISTORY_ARTIFACT = "inline", "store", "artifact"
HISTORY_FRESH, HISTORY_STALE = "fresh", "stale"
HISTORY_FALLBACKS_TOTAL = "recast_history_fallbacks_total"
"""Counter. Histories that a store did not give, or gave too old, by ``reason``."""
HISTORY_FALLBACKS = ("behind", "corrupt", "down", "late", "open", "stale", "trimmed", "unknown")
HISTORY_AGE_SECONDS = "recast_history_age_seconds"
"""Histogram. How old what is known of users was at their requests: the time of the request less that until which the
store, or else the version, knows what happened. Of histories that clients did not send themselves."""
HISTORY_READ_SECONDS = "recast_history_read_duration_seconds"
"""Histogram. Wall time of reads of a store of histories."""
ITEMS_NEW = "recast_items_new"
"""Gauge. Items that the version does not know and the server knows by their content alone."""
ITEMS_IGNORED = "recast_items_ignored"
"""Gauge. Items of the file of new ones that the version knows, whose content there is not looked at."""
ITEMS_FILE_AGE_SECONDS = "recast_items_file_age_seconds"
"""Gauge. Time since the file of new items that is used changed; not a number where none is."""
ITEMS_READS_TOTAL = "recast_items_reads_total"
"""Counter. Reads of the file of new items by ``result``: ``loaded``; ``refused`` for what is in it; ``missing``;
``failed``, the disk did. A file that has not changed is not read."""
ITEMS_LOADED, ITEMS_REFUSED, ITEMS_MISSING, ITEMS_FAILED = "loaded", "refused", "missing", "failed"
ITEMS_RESULTS = (ITEMS_LOADED, ITEMS_REFUSED, ITEMS_MISSING, ITEMS_FAILED)
ANSWERS_LOGGED_TOTAL = "recast_answers_logged_total"
"""Counter. Records of the log of answers that are on the disk, by ``table``: ``answers``, or ``impressions``."""
ANSWERS_DROPPED_TOTAL = "recast_answers_dropped_total"
"""Counter. Records that are not, or no longer, by ``table`` and ``cause``."""
ANSWERS_BUFFER, ANSWERS_FULL, ANSWERS_FAILED, ANSWERS_OLDEST = "buffer", "full", "failed", "oldest"
ANSWERS_CAUSES = (ANSWERS_BUFFER, ANSWERS_FULL, ANSWERS_FAILED, ANSWERS_OLDEST)
"""No room in memory, as the disk was too slow; none on the disk; another error of it; older ones that made room."""
ANSWERS_BYTES = "recast_answers_bytes"
"""Gauge. What the files of the pod's log of answers take."""
ANSWERS_UNSYNCED_SECONDS = "recast_answers_unsynced_seconds"
"""Gauge. Age of the oldest record of it that is not on the disk."""
CODES = ("200", "400", "413", "415", "422", "499", "500", "503")
"""Codes of scoring requests that exist at zero from the start: a rate over one that appears at 1 misses its first."""
OTHER_CODES = ("200", "202", "400", "404", "405", "409", "413", "415", "422", "503")
"""The same, of other requests."""
