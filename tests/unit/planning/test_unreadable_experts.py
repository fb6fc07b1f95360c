"""An expert that cannot be read keeps what it pins: whatever looks like a pin in its raw status counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning_simulator import expert, foundation

from recast_operator.planning.projections import fleet_member, foundation_view, raw_pins, unreadable_member
from recast_operator.planning.snapshot import LineagePin

Object = dict[str, Any]
DIGEST = "sha256:" + "cd" * 32
PIN = {"name": "home-fm", "lineage": 2, "version": 3, "digest": "d"}
HOME = LineagePin("home-fm", 2, 3, "d")


def raw(status: Any, **rest: Any) -> Object:
    return {"metadata": {"name": "reels"}, "status": status, **rest}


@pytest.mark.parametrize(
    "status",
    [
        {"stable": {"foundation": PIN}},
        {"stable": {"foundation": PIN}, "canary": {"foundation": PIN}},
        {"canaries": [{"pairs": [[PIN]]}]},
        {"novelty": {"home-fm": PIN, "note": "x"}},
        PIN,
        [PIN],
        {"stable": {"foundation": {**PIN, "lineage": "2", "version": "3"}}},
    ],
)
def test_a_pin_is_found_wherever_it_stands(status: Any) -> None:
    member = unreadable_member(raw(status))
    assert member.pins == (HOME,)
    assert (member.name, member.foundation, member.readable, member.busy) == ("reels", "", False, True)


def test_a_lineage_is_kept_also_where_the_version_is_not_said() -> None:
    for version in (None, "latest", [], True, -1, 1.5, "²"):
        assert raw_pins(raw({"foundation": {**PIN, "version": version}})) == (LineagePin("home-fm", 2, 0, "d"),)


def test_a_pin_is_kept_also_where_its_digest_cannot_be_read() -> None:
    for digest in (None, 7, []):
        assert raw_pins(raw({"foundation": {**PIN, "digest": digest}})) == (LineagePin("home-fm", 2, 3),)


@pytest.mark.parametrize(
    "value",
    [{"name": "x", "lineage": value} for value in (None, 0, -1, True, "two", "", 1.5, [], {}, "1" * 400)]
    + [{"name": name, "lineage": 1} for name in ("", None, 7, [])]
    + [{"lineage": 1, "version": 1}, None, [], "", 7, True],
)
def test_what_is_no_pin_is_none(value: Any) -> None:
    assert raw_pins(raw({"stable": value})) == ()


def test_depth_and_size_break_nothing() -> None:
    deep: Any = PIN
    for _ in range(20_000):
        deep = {"a": [deep]}
    assert raw_pins(raw(deep)) == (HOME,)
    wide = [{**PIN, "lineage": number} for number in range(1, 5_001)]
    assert len(raw_pins(raw(wide))) == 5_000


def test_an_expert_that_can_be_read_pins_the_same_as_its_raw_status() -> None:
    revision: Object = {
        "revision": "0123456789",
        "version": 1,
        "digest": "sha256:" + "ab" * 32,
        "path": "x",
        "foundation": {**PIN, "digest": DIGEST},
        "serving": {"image": "server:1"},
        "since": "2026-01-01T00:00:00Z",
    }
    model = expert("reels")
    status = type(model.status).model_validate({"stable": revision})
    readable = fleet_member(model.model_copy(update={"status": status}))
    assert readable.pins == unreadable_member(raw(status.wire())).pins == (replace(HOME, digest=DIGEST),)


def test_what_the_two_sides_see_of_each_other() -> None:
    model, home = expert("reels"), foundation(fleet={"pilots": ["reels"], "maxConcurrentRefreshes": 3})
    assert not fleet_member(model).deleting
    going = model.metadata.model_copy(update={"deletion_timestamp": "2026-01-01T00:00:00Z"})
    assert fleet_member(model.model_copy(update={"metadata": going})).deleting
    lineages = [{"lineage": 1, "version": 1, "readyReplicas": 1}, {"lineage": 2, "version": 2, "readyReplicas": 0}]
    status = type(home.status).model_validate({"lineages": lineages, "wave": {"granted": ["reels"]}})
    home = home.model_copy(update={"status": status})
    view, other = foundation_view(home, "reels"), foundation_view(home, "ads")
    assert (view.pilot, view.granted, view.slots, view.ready_lineages) == (True, True, 3, {1})
    assert (other.pilot, other.granted) == (False, False)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["name", "lineage", "version", "stable", ""]), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(JSON)
def test_nothing_in_a_status_breaks_the_reading_of_its_pins(status: Any) -> None:
    member = unreadable_member(raw(status))
    assert all(isinstance(pin.name, str) and pin.lineage > 0 and pin.version >= 0 for pin in member.pins)


WRAPPED = st.recursive(
    st.just(PIN), lambda inner: st.lists(inner, min_size=1) | st.dictionaries(st.text(), inner, min_size=1)
)


@settings(deadline=None)
@given(WRAPPED)
def test_a_pin_is_found_in_any_wrapping(status: Any) -> None:
    assert HOME in raw_pins(raw(status))
