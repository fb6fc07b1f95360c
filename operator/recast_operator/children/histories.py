"""What a store of users' histories adds to an expert's pod: its address, its password, its volume."""

from __future__ import annotations

from recast_api import names
from recast_api.base import duration_seconds
from recast_api.resources.serving import Histories
from recast_api.server import ServedHistories, ServedRedis, ServedVolume
from recast_operator.children.labels import Object

_UNITS = {"Mi": 2**20, "Gi": 2**30}
_AUTHORITY = "authority.pem"


def served_histories(histories: Histories | None) -> ServedHistories | None:
    """The store as the server is told of it; without its password, which is in its environment alone."""
    if histories is None:
        return None
    redis, volume = histories.redis, histories.embedded
    served_redis = served_volume = None
    if redis is not None:
        host, port = redis.address.rsplit(":", 1)
        known = redis.authority_config_map_ref is not None
        served_redis = ServedRedis(
            host=host,
            port=int(port),
            username=redis.username,
            tls=redis.tls,
            authority=f"{names.HISTORIES_AUTHORITY_MOUNT}/{_AUTHORITY}" if known else None,
            prefix=redis.prefix,
            ttl_seconds=duration_seconds(redis.ttl) if redis.ttl else 0,
        )
    if volume is not None:
        served_volume = ServedVolume(
            path=names.HISTORIES_MOUNT, size_bytes=int(volume.size[:-2]) * _UNITS[volume.size[-2:]]
        )
    return ServedHistories(
        store=histories.store,
        max_age_seconds=duration_seconds(histories.max_age),
        max_events=histories.max_events,
        redis=served_redis,
        embedded=served_volume,
    )


def environment(histories: Histories | None) -> list[Object]:
    """The password, from its Secret: the kubelet reads it, and neither the operator nor the server does."""
    if histories is None or histories.redis is None or (secret := histories.redis.password_secret_ref) is None:
        return []
    reference = {"secretKeyRef": {"name": secret.name, "key": secret.key}}
    return [{"name": names.HISTORIES_PASSWORD_ENV, "valueFrom": reference}]


def volumes(histories: Histories | None) -> list[Object]:
    """Volumes of the pod."""
    found: list[Object] = []
    if histories is not None and histories.embedded is not None:
        claim = {"claimName": histories.embedded.claim_name}
        found.append({"name": "histories", "persistentVolumeClaim": claim})
    if histories is not None and histories.redis is not None and (of := histories.redis.authority_config_map_ref):
        content = {"name": of.name, "items": [{"key": of.key, "path": _AUTHORITY}]}
        found.append({"name": "histories-authority", "configMap": content})
    return found


def mounts(histories: Histories | None) -> list[Object]:
    """Where its container has them."""
    found: list[Object] = []
    for volume in volumes(histories):
        if volume["name"] == "histories":
            found.append({"name": "histories", "mountPath": names.HISTORIES_MOUNT})
        else:
            found.append({"name": volume["name"], "mountPath": names.HISTORIES_AUTHORITY_MOUNT, "readOnly": True})
    return found


def one_writer(histories: Histories | None) -> bool:
    """Whether a pod must be gone before the next may start."""
    return histories is not None and histories.embedded is not None
