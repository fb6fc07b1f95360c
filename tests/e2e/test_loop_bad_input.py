"""Bad input, from the apiserver's rejection to what a pod finds: each says what is wrong, and what serves serves on.

All of it is applied at once, beside a world that serves, and judged one by one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from loop import Loop

from dev.cluster.oci import REGISTRY
from dev.demo import facts, pods
from dev.demo.target import TargetError
from recast_api import names
from recast_api.resources import FailedRevision
from recast_cli.world import World

pytestmark = [pytest.mark.e2e, pytest.mark.disruptive, pytest.mark.timeout(1200)]

NO_IMAGE = f"{REGISTRY}/nobody:built-this"
QUICKLY = {"steps": [{"setWeight": 50, "pause": "1s"}], "analysis": [], "progressDeadlineSeconds": 30}
SPOIL = """
set -e
cp -r /var/recast/data/stream /var/recast/data/spoilt
segment=$(ls /var/recast/data/spoilt/segments/* | head -n 1)
echo 'this is not Parquet' > "$segment"
"""


def in_volumes(loop: Loop, name: str, script: str) -> None:
    """Run a script where the volumes are mounted, as the user that trainers run as."""
    mounts = {"data": names.DATA_MOUNT, "models": names.MODELS_MOUNT}
    pod = pods.pod(name, loop.story.cluster.images["trainer"], ["sh", "-c", script], mounts)
    loop.when_applied(pod)
    loop.kubectl("wait", f"pod/{name}", "--for", "jsonpath={.status.phase}=Succeeded", "--timeout=90s")
    loop.kubectl("delete", "pod", name, "--wait=false")


@pytest.fixture(scope="module")
def applied(after_bad_change: Loop) -> Iterator[Loop]:
    """Given a serving world, when every kind of bad input is applied to it at once; put right again at the end."""
    loop = after_bad_change
    ads = loop.story.live.world.expert("ads")
    assert ads is not None
    assert ads.status.stable is not None
    weights = f"{names.MODELS_MOUNT}/{ads.status.stable.path}/model.safetensors"
    in_volumes(loop, "spoil", f"{SPOIL}\ncp {weights} {weights}.kept && truncate -s 100 {weights}")
    loop.when_applied(
        loop.example("ads.yaml", rename="lost", spec__foundationRef__name="home-fn"),
        loop.example("ads.yaml", rename="elsewhere", spec__surface="notifications"),
        loop.example("home-fm.yaml", rename="nowhere", spec__data__path="no/such/folder", spec__training__nodes=1),
        loop.example("home-fm.yaml", rename="spoilt", spec__data__path="spoilt", spec__training__nodes=1),
        loop.example("reels.yaml", spec__serving__image=NO_IMAGE, spec__rollout=QUICKLY),
        loop.example("ads.yaml", spec__serving__terminationGracePeriodSeconds=29, spec__rollout=QUICKLY),
    )
    yield loop
    for expert in ("reels", "ads"):
        loop.then(f"{expert} was judged", lambda world, expert=expert: canary_free(world, expert), within=150)
    in_volumes(loop, "mend", f"mv {weights}.kept {weights}")
    loop.kubectl("delete", "expertmodels", "lost", "elsewhere", "--timeout=60s")
    loop.kubectl("delete", "foundationmodels", "nowhere", "spoilt", "--timeout=60s")
    loop.story.apply("reels.yaml", "ads.yaml")
    loop.then(
        "the good specs are observed again",
        lambda world: all(
            facts.observed(world.expert(expert)) and facts.settled(world, expert, 2) for expert in ("reels", "ads")
        ),
    )


@pytest.mark.parametrize(
    ("model", "reason", "says"),
    [
        ("lost", "FoundationNotFound", 'did you mean "home-fm"?'),
        ("elsewhere", "SurfaceNotFound", "reels"),
        ("nowhere", "DataNotFound", "no/such/folder"),
        ("spoilt", "CorruptSegment", "2026-01-01T00"),
    ],
    ids=["missing-foundation", "missing-surface", "missing-data", "corrupt-segment"],
)
def test_what_cannot_be_trained_says_why(applied: Loop, model: str, reason: str, says: str) -> None:
    condition = applied.then_condition(model, "Stalled", "True", reason, within=150)
    assert says in condition.message


@pytest.mark.parametrize("model", ["nowhere", "spoilt", "elsewhere"])
def test_what_failed_is_not_trained_again_on_the_same_inputs(applied: Loop, model: str) -> None:
    applied.then_condition(model, "Stalled", "True", None, within=150)
    selector = f"{names.LABEL_MODEL}={model}"
    jobs = json.loads(applied.kubectl("get", "jobs", "-l", selector, "-o", "json"))["items"]
    assert len(jobs) == 1


def failed_with(world: World, expert: str, fragment: str) -> FailedRevision | None:
    """The failed revision whose message holds the words."""
    found = world.expert(expert)
    entries = found.status.failed_revisions if found else []
    return next((entry for entry in entries if fragment in entry.message), None)


CANNOT_START = [("reels", NO_IMAGE), ("ads", "model.safetensors")]


@pytest.mark.parametrize(("expert", "fragment"), CANNOT_START, ids=["image-not-pullable", "truncated-artefact"])
def test_a_canary_that_cannot_start_is_rolled_back_and_stable_serves_on(
    applied: Loop, expert: str, fragment: str
) -> None:
    world = applied.then(
        f"{expert} is rolled back", lambda world: failed_with(world, expert, fragment) is not None, within=150
    )
    assert facts.serving(world, expert, 2)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"spec__tasks": [{"name": "click", "weight": "-1"}]}, "spec.tasks"),
        ({"spec__rollout": {"steps": [{"setWeight": 50}, {"setWeight": 25}]}}, "steps must not go down"),
        ({"spec__surface": "feed"}, "surface is immutable"),
        ({"spec__serving__gpu": 1}, "unknown field"),
    ],
    ids=["negative-weight", "steps-down", "surface-moved", "unknown-field"],
)
def test_the_apiserver_rejects_what_no_pod_needs_to_see(applied: Loop, change: dict[str, Any], says: str) -> None:
    with pytest.raises(TargetError, match=says):
        applied.when_applied(applied.example("ads.yaml", **change))


@pytest.mark.parametrize(
    ("pod", "says"),
    [(None, "bound to none"), ("em-feed-r9-a1-0-abcde", "own run only")],
    ids=["token-of-no-pod", "token-of-another-models-pod"],
)
def test_a_version_forged_by_another_models_trainer_is_refused(applied: Loop, pod: str | None, says: str) -> None:
    version = json.loads(applied.kubectl("get", "modelversion", "em-ads-v1", "-o", "json"))
    forged = {"apiVersion": version["apiVersion"], "kind": "ModelVersion", "metadata": {"name": "em-ads-v9"}}
    forged["spec"] = {**version["spec"], "number": 9}
    space = applied.story.cluster.namespace
    trainer = [f"--as=system:serviceaccount:{space}:{names.TRAINER_SERVICE_ACCOUNT}"]
    if pod:
        trainer += [f"--as-user-extra=authentication.kubernetes.io/pod-name={pod}"]
    with pytest.raises(TargetError, match=says):
        applied.kubectl("create", "-f", "-", *trainer, stdin=json.dumps(forged))


def test_nothing_that_served_stopped_serving(applied: Loop) -> None:
    for expert, fragment in CANNOT_START:
        applied.then(
            f"{expert} is rolled back",
            lambda world, expert=expert, fragment=fragment: failed_with(world, expert, fragment) is not None,
            within=150,
        )
    bad = applied.story.bad_revisions
    assert [entry for entry in applied.story.traffic.counts.failures if entry["revision"] not in bad] == []


def canary_free(world: World, expert: str) -> bool:
    """Whether no canary is on trial."""
    found = world.expert(expert)
    return found is not None and found.status.canary is None
