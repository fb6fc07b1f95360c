"""Why a child is changed, in words."""

from __future__ import annotations

import copy

from test_golden_children import build

from recast_operator.children.why import UNSAID, inputs, why_changed, why_scaled


def test_what_people_decide_about_a_child_can_be_read_from_its_body() -> None:
    said = dict(inputs(build("expert_deployment")))
    assert said == {
        "image": "server:1",
        "version": "v3",
        "foundation": "home-fm v2",
        "resources": '{"limits": {"cpu": 1, "memory": "1Gi"}, "requests": {"cpu": "250m", "memory": "512Mi"}}',
        "terminationGracePeriodSeconds": "30",
        "claim": "models",
    }
    assert "foundation" not in dict(inputs(build("foundation_deployment")))
    assert inputs(build("expert_service")) == ()


def test_a_change_names_what_was_and_what_is() -> None:
    old, new = build("expert_deployment"), copy.deepcopy(build("expert_deployment"))
    container = new["spec"]["template"]["spec"]["containers"][0]
    container["image"] = "server:2"
    new["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 60
    assert why_changed(inputs(old), inputs(new)) == (
        "image: server:1 -> server:2; terminationGracePeriodSeconds: 30 -> 60"
    )
    assert why_changed(inputs(old), inputs(old)) == UNSAID
    assert why_changed((), inputs(new)) == UNSAID
    assert why_changed((("image", "a"),), (("image", "a"), ("claim", "b"))) == "claim: none -> b"


def test_a_body_of_another_operator_version_is_read_as_far_as_it_goes() -> None:
    assert dict(inputs({"spec": {"template": {"spec": {"containers": [{}]}}}}))["image"] == ""
    assert inputs({"spec": {"template": {"spec": {"volumes": [{"name": "x"}]}}}})
    odd = [{"name": "RECAST_SERVER", "value": "not json"}], [{"name": "RECAST_SERVER", "value": "[]"}], [{"name": "x"}]
    for env in odd:
        assert "version" not in dict(inputs({"spec": {"template": {"spec": {"containers": [{"env": env}]}}}}))


def test_scaling_says_from_what_to_what_and_why() -> None:
    assert why_scaled(3, 4, "the canary moves to 50%") == "replicas 3 -> 4: the canary moves to 50%"
