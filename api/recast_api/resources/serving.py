"""How models are served. The template of an expert's server is part of its revision."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from recast_api.base import Duration, Fraction, Image, RelativePath, Wire, rules
from recast_api.resources.common import PersistentVolumeClaim, Resources


class ItemsFile(Wire):
    """A file of items that appeared after a version was trained, which each server reads again when it changes."""

    persistent_volume_claim: PersistentVolumeClaim
    """The claim, in the resource's namespace; mounted to be read alone."""
    path: RelativePath
    """The file inside the volume: Parquet, with the columns of a data set's items.parquet, which it may be."""
    every_seconds: Annotated[int, Field(ge=1, le=86400)] = 60
    """How often servers look whether it has changed."""


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
    items: ItemsFile | None = None
    """Items that appeared after a version was trained, by their content; absent: all such items are alike. Experts need
    the same."""
    network_policy: Literal["Enforced", "None"] = "Enforced"
    """Enforced: a NetworkPolicy lets only the namespace's experts that read a lineage reach its servers' gRPC port, and
    everybody their health and metrics; the cluster's network plug-in must know NetworkPolicies. None: there is none,
    for clients of your own or rules of your own. A change restarts no pod."""


_OBJECT = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
_KEY = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]


class SecretKey(Wire):
    """One entry of a Secret of the resource's namespace."""

    name: _OBJECT
    """The Secret's name."""
    key: _KEY = "password"
    """The entry in it."""


class ConfigMapKey(Wire):
    """One entry of a ConfigMap of the resource's namespace."""

    name: _OBJECT
    """The ConfigMap's name."""
    key: _KEY = "ca.crt"
    """The entry in it."""


class HistoriesRedis(Wire):
    """A Redis or Valkey: one primary, shared by all replicas of all experts that name it."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("has(self.tls) && self.tls || !has(self.authorityConfigMapRef)", "authorityConfigMapRef needs tls: true")
        )
    )

    address: Annotated[str, Field(max_length=260, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?:[1-9][0-9]{0,4}$")]
    """Host and port."""
    username: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[-._a-zA-Z0-9]+$")] | None = None
    """A user of its access control; absent: the default user."""
    password_secret_ref: SecretKey | None = None
    """Where the user's password is. Servers have it in their environment; the operator never reads it."""
    tls: bool = False
    """Whether the connection is encrypted and the server's certificate is checked."""
    authority_config_map_ref: ConfigMapKey | None = None
    """The authority, in PEM, that vouches for the server's certificate; absent: the image's own."""
    prefix: Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")] = "recast"
    """What its keys begin with: experts that name the same prefix share users."""
    ttl: Duration | None = None
    """Users who did nothing for so long are forgotten; absent: none is."""

    @model_validator(mode="after")
    def _authority_with_tls(self) -> Self:
        if self.authority_config_map_ref is not None and not self.tls:
            raise ValueError("authorityConfigMapRef needs tls: true")
        return self


class HistoriesVolume(Wire):
    """A volume of the one replica."""

    claim_name: _OBJECT
    """Name of a PersistentVolumeClaim with the access mode ReadWriteOncePod, which no other pod mounts."""
    size: Annotated[str, Field(max_length=8, pattern=r"^[1-9][0-9]{0,4}(Mi|Gi)$")] = "4Gi"
    """The most that the file may grow to; less than the volume has."""


class Histories(Wire):
    """Where an expert has users' histories from, where requests do not bring them."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("has(self.redis) == (self.store == 'Redis')", "redis is given where store is Redis, and only there"),
            (
                "has(self.embedded) == (self.store == 'Embedded')",
                "embedded is given where store is Embedded, and only there",
            ),
        )
    )

    store: Literal["Artifact", "Embedded", "Redis"] = "Artifact"
    """Artifact: in the version, as of its watermark. Redis: a server that all replicas share. Embedded: a file on the
    volume of the one replica. The last two take events at POST /v1/events."""
    max_age: Duration = "1h"
    """A history that knows nothing of the last so long is answered as stale."""
    max_events: Annotated[int, Field(ge=4, le=32768)] = 2048
    """Events of each user that a store keeps, the newest; not less than the foundation's historyLength."""
    redis: HistoriesRedis | None = None
    """The server, where store is Redis."""
    embedded: HistoriesVolume | None = None
    """The volume, where store is Embedded."""

    @model_validator(mode="after")
    def _one_store(self) -> Self:
        for name, given in (("Redis", self.redis), ("Embedded", self.embedded)):
            if (given is not None) != (self.store == name):
                raise ValueError(f"{name.lower()} is given where store is {name}, and only there")
        return self


class AnswerLog(Wire):
    """A log of what an expert's servers answer, with the embeddings that they read: experts are trained again from it.

    They then take POST /v1/impressions, too.
    """

    claim_name: _OBJECT | None = None
    """Name of a PersistentVolumeClaim that all pods write, each into a folder of its own: ReadWriteMany, where nodes
    are many. Absent: an emptyDir, which goes with its pod."""
    size: Annotated[str, Field(max_length=8, pattern=r"^([1-9][0-9]{2,4}Mi|[1-9][0-9]{0,3}Gi)$")] = "1Gi"
    """The most that each pod keeps. When it is used up, its oldest segments go."""
    share: Fraction = "0.1"
    """Share of the candidates that were scored and not returned, from 0 to 1: each is logged with this probability."""
    window: Annotated[Duration, Field(pattern=r"^[1-9][0-9]{0,2}s$")] = "1s"
    """Within which an answer is on the disk, and so what a crash may cost. Each window costs a sync."""
    segment: Duration = "5m"
    """After which what was logged becomes a segment that others read; sooner where it is large."""


class ExpertServing(Wire):
    """An expert's servers: one Deployment per revision, all behind one Service."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "!has(self.histories) || self.histories.store != 'Embedded' || self.replicas == 1",
                "histories.store Embedded is a file that one pod writes: replicas must be 1; use Redis for more",
            )
        )
    )

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
    histories: Histories | None = None
    """Where users' histories are; absent: in the version."""
    items: ItemsFile | None = None
    """Items that appeared after a version was trained, by their content; absent: all such items are alike. The
    foundation needs the same."""
    answer_log: AnswerLog | None = None
    """Keep a log of answers; absent: none."""

    @model_validator(mode="after")
    def _one_writer(self) -> Self:
        if self.histories is not None and self.histories.store == "Embedded" and self.replicas != 1:
            raise ValueError(
                "histories.store Embedded is a file that one pod writes: replicas must be 1; use Redis for more"
            )
        return self
