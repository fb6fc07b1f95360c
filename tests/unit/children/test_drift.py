"""Drift: what of an applied object a live one lacks, and what it says about it."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_golden_children import KINDS, build

from recast_operator.children.drift import differences, same_quantity


def live(name: str = "expert_deployment") -> dict[str, Any]:
    """The object as an apiserver would give it back: with defaults, and what others add."""
    made = json.loads(json.dumps(build(name)))  # apart from the builder's shared parts
    made["metadata"] |= {"uid": "1", "resourceVersion": "7", "generation": 2}
    made["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = "1"
    if made["kind"] == "Deployment":
        made["spec"]["progressDeadlineSeconds"] = 600
        made["spec"]["template"]["spec"] |= {"dnsPolicy": "ClusterFirst", "restartPolicy": "Always"}
        container(made)["resources"] = {
            "requests": {"cpu": "0.25", "memory": "512Mi"},
            "limits": {"cpu": "1", "memory": "1Gi"},
        }
    return made


def container(body: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = body["spec"]["template"]["spec"]["containers"][0]
    return found


def pod(body: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = body["spec"]["template"]["spec"]
    return found


@pytest.mark.parametrize("name", KINDS)
def test_an_object_is_in_itself(name: str) -> None:
    assert differences(build(name), copy.deepcopy(build(name))) == ()


def test_defaults_and_normalised_quantities_are_no_drift() -> None:
    assert differences(build("expert_deployment"), live()) == ()


def _restart(body: dict[str, Any]) -> None:
    body["spec"]["template"]["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"] = "2026-01-01T00:00:00Z"


def _sidecar(body: dict[str, Any]) -> None:
    pod(body)["containers"].insert(0, {"name": "proxy", "image": "mesh:1"})
    pod(body)["volumes"].insert(0, {"name": "certificates", "emptyDir": {}})
    container(body)["ports"] = []


def _extra_variable(body: dict[str, Any]) -> None:
    container(body)["env"].insert(0, {"name": "DEBUG", "value": "1"})


def _reorder(body: dict[str, Any]) -> None:
    for field in ("env", "ports", "volumeMounts"):
        container(body)[field].reverse()


def _label(body: dict[str, Any]) -> None:
    body["metadata"]["labels"]["team"] = "ads"
    body["metadata"]["ownerReferences"].insert(0, {"kind": "Team", "name": "ads", "uid": "9"})


@pytest.mark.parametrize("change", [_restart, _sidecar, _extra_variable, _reorder, _label])
def test_what_others_add_beside_our_fields_is_no_drift(change: Any) -> None:
    body = live()
    change(body)
    assert differences(build("expert_deployment"), body) == ()


IN_THE_CONTAINER: list[tuple[str, Any, str]] = [
    ("image", "server:2", 'image is "server:2", applied "server:1"'),
    ("image", None, "image was removed"),
    ("resources/limits/cpu", "2", 'resources.limits.cpu is "2", applied 1'),
    ("resources/limits/memory", None, "resources.limits.memory was removed"),
    ("env/0", None, "environment variable RECAST_SERVER was removed"),
    ("env/1/valueFrom", None, "environment variable POD_NAME: valueFrom was removed"),
    ("ports/0/name", "web", 'port 8080: name is "web", applied "http"'),
    ("ports/0/containerPort", 9090, "port 8080 was removed"),
    ("ports/0/protocol", "UDP", "port 8080 was removed"),
    ("volumeMounts/0/readOnly", False, "mount /var/recast/models: readOnly is false, applied true"),
    ("volumeMounts/0/mountPath", "/elsewhere", "mount /var/recast/models was removed"),
    (
        "securityContext/capabilities/drop",
        ["ALL", "KILL"],
        'securityContext.capabilities.drop is ["ALL", "KILL"], applied ["ALL"]',
    ),
    (
        "securityContext/allowPrivilegeEscalation",
        0,
        "securityContext.allowPrivilegeEscalation is 0, applied false",
    ),
    ("startupProbe/periodSeconds", "2", 'startupProbe.periodSeconds is "2", applied 2'),
]
ELSEWHERE: list[tuple[str, Any, str]] = [
    (
        "spec/template/spec/volumes/0/persistentVolumeClaim/claimName",
        "x",
        'volume models: persistentVolumeClaim.claimName is "x", applied "models"',
    ),
    ("spec/template/spec/volumes/1", {"name": "tmp", "hostPath": {"path": "/"}}, "volume tmp: emptyDir was removed"),
    ("spec/template/spec/automountServiceAccountToken", None, "automountServiceAccountToken was removed"),
    ("spec/template/spec/containers/0", {"name": "other"}, "container server was removed"),
    (
        "spec/template/metadata/labels/recast.dev~surface",
        "feed",
        'pod: label recast.dev/surface is "feed", applied "reels"',
    ),
    ("spec/template/metadata/annotations", None, "pod: annotations was removed"),
    ("spec/strategy/rollingUpdate/maxUnavailable", "25%", 'strategy.rollingUpdate.maxUnavailable is "25%", applied 0'),
    ("spec/template/spec/terminationGracePeriodSeconds", 1, "terminationGracePeriodSeconds is 1, applied 30"),
    ("metadata/labels/recast.dev~kind", None, "label recast.dev/kind was removed"),
    (
        "metadata/annotations/recast.dev~template-hash",
        "x",
        'annotation recast.dev/template-hash is "x", applied "hash"',
    ),
    ("metadata/ownerReferences/0", None, "owner reference ExpertModel reels was removed"),
    ("metadata/ownerReferences/0/controller", None, "owner reference ExpertModel reels: controller was removed"),
    ("spec", None, "spec was removed"),
]
DRIFT = [
    *(
        (f"spec/template/spec/containers/0/{path}", value, f"container server: {text}")
        for path, value, text in IN_THE_CONTAINER
    ),
    *ELSEWHERE,
]


@pytest.mark.parametrize(("path", "value", "sentence"), DRIFT, ids=lambda value: str(value)[-40:])
def test_a_field_that_somebody_changed_is_named_with_both_values(path: str, value: Any, sentence: str) -> None:
    body = live()
    parts = [part.replace("~", "/") for part in path.split("/")]

    def walk(target: Any, rest: list[str]) -> None:
        key: Any = int(rest[0]) if rest[0].isdigit() else rest[0]
        if len(rest) > 1:
            walk(target[key], rest[1:])
        elif value is None:
            del target[key]
        else:
            target[key] = value

    walk(body, parts)
    assert differences(build("expert_deployment"), body) == (sentence,)


@pytest.mark.parametrize(
    ("selector", "sentences"),
    [
        ({"recast.dev/kind": "expert-server"}, ("selector.recast.dev/model was removed",)),
        (None, ("selector was removed",)),
        (
            {"recast.dev/kind": "expert-server", "recast.dev/model": "reels", "tier": "x"},
            ("selector.tier was added",),
        ),
    ],
)
def test_a_selector_is_one_value_where_an_added_key_counts(selector: Any, sentences: tuple[str, ...]) -> None:
    body = live("expert_service")
    body["spec"]["selector"] = selector
    assert differences(build("expert_service"), body) == sentences


@pytest.mark.parametrize(
    ("name", "field"), [("expert_disruption_budget", "selector"), ("foundation_network_policy", "podSelector")]
)
def test_a_key_added_anywhere_in_a_guards_selector_counts(name: str, field: str) -> None:
    body = live(name)
    body["spec"][field]["matchLabels"]["tier"] = "x"
    body["spec"][field]["matchExpressions"] = []
    assert differences(build(name), body) == (
        f"{field}.matchLabels.tier was added",
        f"{field}.matchExpressions was added",
    )


def test_the_ports_of_a_service_are_told_apart_by_their_number() -> None:
    body = live("expert_service")
    _, grpc = body["spec"]["ports"]
    body["spec"]["ports"] = [
        grpc,
        {"name": "more", "port": 81, "targetPort": "http", "protocol": "TCP"},
        {"name": "http", "port": 80, "targetPort": "admin", "protocol": "TCP"},
    ]
    assert differences(build("expert_service"), body) == ('port 80: targetPort is "admin", applied "http"',)


def test_null_and_what_is_empty_are_as_good_as_absent_but_for_an_empty_dir() -> None:
    assert differences({"spec": {"a": None, "b": "", "limits": {}, "list": []}}, {"spec": {}}) == ()
    assert differences({"spec": {"emptyDir": {}}}, {"spec": {}}) == ("emptyDir was removed",)
    assert differences({"spec": {"a": 0}}, {"spec": {}}) == ("a was removed",)
    assert differences({"spec": {"b": ""}}, {"spec": {"b": "x"}}) == ('b is "x", applied ""',)
    assert differences({"spec": {"b": False}}, {"spec": {}}) == ("b was removed",)


def test_a_long_value_is_cut_and_a_map_is_shown_in_order() -> None:
    assert differences({"spec": {"a": "x" * 79}}, {"spec": {"a": "y" * 78}}) == (
        f'a is "{"y" * 78}", applied "{"x" * 76}...',
    )
    assert differences({"spec": {"a": 1}}, {"spec": {"a": {"d": 1, "c": 2}}}) == ('a is {"c": 2, "d": 1}, applied 1',)


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("1000m", "1", True),
        (1, "1", True),
        ("1.5Gi", "1536Mi", True),
        ("0.1", "100m", True),
        ("1e3", "1k", True),
        (".5", "500m", True),
        ("1G", "1Gi", False),
        ("1M", "1000k", True),
        ("1u", "1000n", True),
        ("2P", "2000T", True),
        ("3Ei", "3072Pi", True),
        ("1Ti", "1024Gi", True),
        ("1Mi", "1024Ki", True),
        ("1E", "1000P", True),
        ("1", "2", False),
        ("lots", "lots", False),
        (True, 1, False),
        ("1e999999999", "1", False),
    ],
)
def test_quantities_are_compared_as_amounts(left: Any, right: Any, same: bool) -> None:
    assert same_quantity(left, right) is same


def test_only_quantities_are_compared_as_amounts() -> None:
    assert differences({"spec": {"targetPort": "1000m"}}, {"spec": {"targetPort": "1"}})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "1", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(JSON, JSON)
def test_any_two_values_can_be_compared_and_equal_ones_do_not_differ(one: Any, other: Any) -> None:
    assert differences({"spec": one}, {"spec": copy.deepcopy(one)}) == ()
    assert all(isinstance(text, str) for text in differences({"spec": one}, {"spec": other}))


@settings(deadline=None)
@given(JSON, st.dictionaries(st.sampled_from("xyz"), JSON, max_size=2))
def test_fields_beside_ours_never_make_a_difference(ours: Any, theirs: dict[str, Any]) -> None:
    def beside(value: Any) -> Any:
        if isinstance(value, dict):
            return {**theirs, **{key: beside(entry) for key, entry in value.items()}}
        return value

    assert differences({"spec": ours}, {"spec": beside(ours)}) == ()
