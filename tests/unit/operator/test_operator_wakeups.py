"""A change wakes the models whose plans it is part of, and no other."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recast_api.resources import ExpertModel, FoundationModel
from recast_operator.fleet import Fleet
from recast_operator.keys import Key
from recast_operator.parsing import Parser
from recast_operator.planning.projections import fleet_member, foundation_view
from recast_operator.store import Store
from recast_operator.wakeups import Wakeups
from tests.unit.operator.documents import digest, expert, foundation, foundation_version, revision

Object = dict[str, Any]
EXPERTS = ("ads", "feed", "reels")


class Woken:
    """A store, and whom each change of it wakes."""

    def __init__(self, *objects: Object) -> None:
        self.keys: set[str] = set()
        self.fleet = Fleet()
        self.store = Store(Wakeups(Parser(), self.fleet, self._wake).changed)
        for raw in objects:
            self.put(raw)

    def _wake(self, key: Key) -> None:
        self.keys.add(f"{key.kind}/{key.name}")

    def put(self, raw: Object) -> set[str]:
        self.keys.clear()
        self.store.put(raw["kind"], raw)
        return set(self.keys)

    def remove(self, raw: Object) -> set[str]:
        self.keys.clear()
        metadata = raw["metadata"]
        self.store.remove(raw["kind"], metadata["namespace"], metadata["name"], metadata["uid"])
        return set(self.keys)


def experts(*names: str) -> set[str]:
    return {f"ExpertModel/{name}" for name in names}


HOME = {"FoundationModel/home-fm"}
VERSION_REFS = st.none() | st.integers(1, 3).map(
    lambda number: {"version": number, "lineage": number, "digest": digest(number), "since": "2026-01-03T00:00:00Z"}
)
NAMES = st.lists(st.sampled_from([*EXPERTS, "stranger"]), unique=True, max_size=3)


@st.composite
def foundation_documents(draw: st.DrawFn) -> tuple[Object, Object]:
    spec: Object = {
        "fleet": {"pilots": draw(NAMES), "maxConcurrentRefreshes": draw(st.integers(1, 2))},
        "suspend": draw(st.booleans()),
        "storage": {"persistentVolumeClaim": {"claimName": draw(st.sampled_from(["models", "others"]))}},
    }
    lineages = draw(st.dictionaries(st.integers(1, 3), st.integers(0, 2), max_size=2))
    status: Object = {
        "current": draw(VERSION_REFS),
        "candidate": draw(VERSION_REFS),
        "wave": {"granted": draw(NAMES), "waitingTotal": draw(st.integers(0, 2))},
        "lineages": [
            {"lineage": number, "version": number, "replicas": 2, "readyReplicas": ready}
            for number, ready in lineages.items()
        ],
    }
    return spec, status


@given(foundation_documents(), foundation_documents())
def test_a_foundations_change_wakes_exactly_the_experts_whose_view_of_it_differs(
    before: tuple[Object, Object], after: tuple[Object, Object]
) -> None:
    old, new = (
        foundation(version=number + 1, status=status, **spec) for number, (spec, status) in enumerate((before, after))
    )
    woken = Woken(*(expert(name) for name in EXPERTS), expert("elsewhere", foundationRef={"name": "other-fm"}), old)
    parsed = [FoundationModel.model_validate(raw) for raw in (old, new)]
    differ = [name for name in EXPERTS if foundation_view(parsed[0], name) != foundation_view(parsed[1], name)]
    assert woken.put(new) == HOME | experts(*differ)


REVISIONS = st.none() | st.builds(
    revision,
    st.sampled_from(["home-fm", "other-fm"]),
    st.integers(1, 2),
)


@st.composite
def expert_documents(draw: st.DrawFn) -> tuple[Object, Object]:
    spec: Object = {
        "foundationRef": {"name": draw(st.sampled_from(["home-fm", "other-fm"]))},
        "suspend": draw(st.booleans()),
        "serving": {"image": draw(st.sampled_from(["server:1", "server:2"]))},
    }
    status: Object = {}
    if (stable := draw(REVISIONS)) is not None:
        status["stable"] = stable
    if draw(st.booleans()):
        status["conditions"] = [
            {"type": "Ready", "status": "True", "reason": "Serving", "lastTransitionTime": "2026-01-03T00:00:00Z"}
        ]
    return spec, status


@given(expert_documents(), expert_documents())
def test_an_experts_change_wakes_exactly_the_foundations_that_see_it_differ(
    before: tuple[Object, Object], after: tuple[Object, Object]
) -> None:
    old, new = (
        expert(version=number + 1, status=status, **spec) for number, (spec, status) in enumerate((before, after))
    )
    woken = Woken(foundation("home-fm"), foundation("other-fm"), foundation("third-fm"), old)
    members = [fleet_member(ExpertModel.model_validate(raw)) for raw in (old, new)]
    concerned = {member.foundation for member in members} | {pin.name for m in members for pin in m.pins}
    expected = {f"FoundationModel/{name}" for name in concerned} if members[0] != members[1] else set()
    assert woken.put(new) == experts("reels") | expected


def test_a_foundation_that_comes_or_goes_wakes_its_experts_and_those_that_look_for_another() -> None:
    lost = expert("lost", foundationRef={"name": "home-fn"})
    content = expert("content", foundationRef={"name": "other-fm"})
    woken = Woken(foundation("other-fm"), content, lost, expert("reels"))
    assert woken.put(foundation("home-fm")) == HOME | experts("reels", "lost")
    assert woken.remove(foundation("home-fm")) == HOME | experts("reels", "lost")


def test_a_foundation_that_becomes_unreadable_and_readable_again_wakes_its_experts() -> None:
    woken = Woken(foundation(), expert())
    assert woken.put(foundation(version=2, serving="none")) == HOME | experts("reels")
    assert woken.put(foundation(version=3)) == HOME | experts("reels")


def test_an_expert_that_cannot_be_read_wakes_every_foundation_of_its_namespace() -> None:
    woken = Woken(foundation("home-fm"), foundation("other-fm"), expert())
    everybody = experts("reels") | {"FoundationModel/home-fm", "FoundationModel/other-fm"}
    assert woken.put(expert(version=2, tasks="none")) == everybody
    assert woken.put(expert(version=3)) == everybody
    assert woken.remove(expert()) == experts("reels") | HOME


def leading(number: int) -> Object:
    ref = {"version": number, "lineage": number, "digest": digest(number), "since": "2026-01-03T00:00:00Z"}
    return {"current": ref}


def test_a_new_version_of_a_foundation_wakes_the_foundation_alone() -> None:
    woken = Woken(foundation(status=leading(1)), expert(), foundation_version(number=1, accepted=True))
    assert woken.put(foundation_version(number=2)) == HOME
    assert woken.put(foundation_version(number=2, version=2, accepted=True)) == HOME


@pytest.mark.parametrize("status", [leading(2), {}])
def test_a_version_that_an_expert_looks_for_wakes_it_by_coming_going_and_being_rejected(status: Object) -> None:
    served: Object = {"stable": revision("home-fm", 2)} if not status else {}
    woken = Woken(foundation(status=status), expert(status=served))
    assert woken.put(foundation_version(number=2)) == HOME | experts("reels")
    assert woken.put(foundation_version(number=2, version=2, accepted=False)) == HOME | experts("reels")
    assert woken.put(foundation_version(number=2, version=3, accepted=False)) == HOME
    assert woken.remove(foundation_version(number=2)) == HOME | experts("reels")


def test_a_version_that_is_rejected_when_it_is_first_seen_or_comes_before_its_foundation_wakes_all_readers() -> None:
    woken = Woken(foundation(status=leading(1)), expert())
    assert woken.put(foundation_version(number=3, accepted=False)) == HOME | experts("reels")
    orphaned = Woken(expert())
    assert orphaned.put(foundation_version(number=1)) == HOME | experts("reels")


def test_a_version_of_one_foundation_is_not_taken_for_the_pinned_one_of_another() -> None:
    woken = Woken(foundation(status=leading(1)), expert(status={"stable": revision("other-fm", 2)}))
    assert woken.put(foundation_version(number=2)) == HOME


def test_a_version_or_a_child_wakes_its_model_and_nobody_else() -> None:
    woken = Woken(foundation(), expert(), expert("feed"))
    version = {
        "kind": "ModelVersion",
        "metadata": {"name": "em-reels-v1", "namespace": "n", "uid": "v", "resourceVersion": "1"},
        "spec": {"model": {"kind": "ExpertModel", "name": "reels"}},
    }
    assert woken.put(version) == experts("reels")
    marks = {"recast.dev/kind": "expert-server", "recast.dev/model": "reels"}
    pod = {
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "n", "uid": "p", "resourceVersion": "1", "labels": marks},
    }
    assert woken.put(pod) == experts("reels")
    moved = {
        **pod,
        "metadata": {**pod["metadata"], "resourceVersion": "2", "labels": {**marks, "recast.dev/model": "feed"}},
    }
    assert woken.put(moved) == experts("reels", "feed")
    assert woken.remove(moved) == experts("feed")
