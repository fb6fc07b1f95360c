"""A log of answers in an expert's pod: the server is told where and how much, and the volume is there to be written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from recast_api import names
from recast_api.resources import ExpertServing, FoundationPin, Task
from recast_api.server import ExpertServerConfig, ServedArtifact
from recast_operator.children.answer_log import served_answer_log
from recast_operator.children.expert_deployment import expert_deployment
from recast_operator.children.labels import ChildMeta
from recast_operator.planning.hashing import serving_template

DIGEST = "sha256:" + "ab" * 32


def rendered(log: dict[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any], list[Any]]:
    """What the server is told, its volumes by name, its container's mounts."""
    serving = ExpertServing.model_validate({"image": "server:1", "answerLog": log})
    config = ExpertServerConfig(
        namespace="demo", model="reels", surface="reels", revision="0123456789", tasks=[Task(name="click")],
        artifact=ServedArtifact(root="/models", path="em/v3", version=3, lineage=3, digest=DIGEST),
        foundation=FoundationPin(name="home-fm", version=2, lineage=2, digest=DIGEST),
        foundation_address="fm-home-fm-l2.demo.svc:8082", slo_milliseconds=200, foundation_deadline_milliseconds=100,
        max_connection_age_seconds=30, answer_log=served_answer_log(serving.answer_log, "reels"),
    )  # fmt: skip
    child = ChildMeta("em-reels-0123456789", "demo", {"uid": "u"}, "hash")
    pod = expert_deployment(config, serving, child, claim="models", replicas=1)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    told = next(json.loads(entry["value"]) for entry in container["env"] if entry["name"] == names.SERVER_ENV)
    assert container["securityContext"]["readOnlyRootFilesystem"]
    return told, {volume["name"]: volume for volume in pod["volumes"]}, container["volumeMounts"]


def test_without_a_log_nothing_is_said_of_one_and_no_revision_changes() -> None:
    told, volumes, mounts = rendered(None)
    assert "answerLog" not in told
    assert set(volumes) == {"models", "tmp"}
    assert len(mounts) == 2
    assert serving_template(ExpertServing(image="server:1")) == {"image": "server:1"}


def test_a_log_without_a_claim_lies_in_the_pod_and_never_outgrows_its_volume() -> None:
    told, volumes, mounts = rendered({})
    assert told["answerLog"] == {
        "path": "/var/recast/answers/reels", "share": "0.1", "windowMilliseconds": 1000, "rollSeconds": 300,
        "maxBytes": 2**30 * 9 // 10, "bufferMebibytes": 32,
    }  # fmt: skip
    assert volumes["answers"] == {"name": "answers", "emptyDir": {"sizeLimit": "1Gi"}}
    assert mounts[-1] == {"name": "answers", "mountPath": "/var/recast/answers"}


def test_a_log_on_a_claim_is_written_there_by_every_pod() -> None:
    log = {"claimName": "answers", "share": "0.25", "window": "5s", "segment": "1h", "size": "200Mi"}
    told, volumes, mounts = rendered(log)
    assert told["answerLog"] == {
        "path": "/var/recast/answers/reels", "share": "0.25", "windowMilliseconds": 5000, "rollSeconds": 3600,
        "maxBytes": 180 * 2**20, "bufferMebibytes": 32,
    }  # fmt: skip
    assert volumes["answers"] == {"name": "answers", "persistentVolumeClaim": {"claimName": "answers"}}
    assert "readOnly" not in mounts[-1]


@pytest.mark.parametrize("size", ["99Mi", "0Gi", "1Ti", "1.5Gi", "100"])
def test_a_size_that_no_log_can_have_is_refused(size: str) -> None:
    with pytest.raises(ValidationError, match="size"):
        ExpertServing.model_validate({"image": "server:1", "answerLog": {"size": size}})
