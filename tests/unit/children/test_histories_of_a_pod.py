"""A store of histories in an expert's pod: told to the server without its secret, and mounted where it must be."""

from __future__ import annotations

import json
from typing import Any

from recast_api import names
from recast_api.resources import ExpertServing, FoundationPin, Task
from recast_api.server import ExpertServerConfig, ServedArtifact
from recast_operator.children.expert_deployment import expert_deployment
from recast_operator.children.histories import served_histories
from recast_operator.children.labels import ChildMeta

DIGEST = "sha256:" + "ab" * 32
REDIS = {
    "store": "Redis",
    "maxAge": "10m",
    "redis": {
        "address": "redis.models.svc:6380",
        "username": "recast",
        "passwordSecretRef": {"name": "redis", "key": "pw"},
        "tls": True,
        "authorityConfigMapRef": {"name": "redis-ca"},
        "ttl": "90d",
    },
}
EMBEDDED = {"store": "Embedded", "embedded": {"claimName": "reels-histories", "size": "16Gi"}}


def rendered(histories: dict[str, Any] | None) -> dict[str, Any]:
    serving = ExpertServing.model_validate({"image": "server:1", "replicas": 1, "histories": histories})
    config = ExpertServerConfig(
        namespace="demo", model="reels", surface="reels", revision="0123456789", tasks=[Task(name="click")],
        artifact=ServedArtifact(root="/models", path="em/v3", version=3, lineage=3, digest=DIGEST),
        foundation=FoundationPin(name="home-fm", version=2, lineage=2, digest=DIGEST),
        foundation_address="fm-home-fm-l2.demo.svc:8082", slo_milliseconds=200, foundation_deadline_milliseconds=100,
        max_connection_age_seconds=30, histories=served_histories(serving.histories),
    )  # fmt: skip
    child = ChildMeta("em-reels-0123456789", "demo", {"uid": "u"}, "hash")
    return expert_deployment(config, serving, child, claim="models", replicas=1)


def parts(deployment: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What the server is told, its environment by name, and its volumes by name."""
    pod = deployment["spec"]["template"]["spec"]
    environment = {entry["name"]: entry for entry in pod["containers"][0]["env"]}
    told = json.loads(environment[names.SERVER_ENV]["value"])
    return told, environment, {volume["name"]: volume for volume in pod["volumes"]}


def test_without_a_store_nothing_is_said_of_histories() -> None:
    told, environment, volumes = parts(rendered(None))
    assert "histories" not in told
    assert (set(volumes), set(environment)) == ({"models", "tmp"}, {names.SERVER_ENV, "POD_NAME"})


def test_a_redis_is_told_by_its_address_and_its_password_comes_from_the_secret_alone() -> None:
    deployment = rendered(REDIS)
    told, environment, volumes = parts(deployment)
    assert told["histories"] == {
        "store": "Redis",
        "maxAgeSeconds": 600,
        "maxEvents": 2048,
        "redis": {
            "host": "redis.models.svc", "port": 6380, "username": "recast", "tls": True, "prefix": "recast",
            "authority": "/var/recast/histories-authority/authority.pem", "ttlSeconds": 90 * 86400,
        },
    }  # fmt: skip
    assert environment[names.HISTORIES_PASSWORD_ENV] == {
        "name": names.HISTORIES_PASSWORD_ENV,
        "valueFrom": {"secretKeyRef": {"name": "redis", "key": "pw"}},
    }
    assert volumes["histories-authority"]["configMap"]["items"] == [{"key": "ca.crt", "path": "authority.pem"}]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    mount = {"name": "histories-authority", "mountPath": "/var/recast/histories-authority", "readOnly": True}
    assert mount in container["volumeMounts"]
    assert deployment["spec"]["strategy"]["type"] == "RollingUpdate"


def test_a_volume_is_written_by_one_pod_which_is_gone_before_the_next_starts() -> None:
    deployment = rendered(EMBEDDED)
    told, environment, volumes = parts(deployment)
    assert told["histories"]["embedded"] == {"path": "/var/recast/histories", "sizeBytes": 16 << 30}
    assert volumes["histories"] == {"name": "histories", "persistentVolumeClaim": {"claimName": "reels-histories"}}
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert {"name": "histories", "mountPath": "/var/recast/histories"} in container["volumeMounts"]
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    assert names.HISTORIES_PASSWORD_ENV not in environment
