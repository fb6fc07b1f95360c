"""Strictness, nulls, quantities and paths: pydantic reads an object as the apiserver does."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from recast_api.base import Wire, duration_seconds, timestamp
from recast_api.resources import Resources, Step
from recast_api.resources.common import Data


def _data(path: str) -> Data:
    return Data.model_validate({"persistentVolumeClaim": {"claimName": "events"}, "path": path})


@pytest.mark.parametrize("path", [".", "home", "home/v1.2", "a-b/c_d/e"])
def test_a_path_below_the_root_is_taken(path: str) -> None:
    assert _data(path).path == path


@given(st.lists(st.sampled_from(["..", ".", "a", "", ".hidden"]), min_size=1, max_size=4).map("/".join))
def test_no_path_climbs_out_of_its_root(path: str) -> None:
    parts = path.split("/")
    if path == "." or all(part == "a" for part in parts):
        assert _data(path).path == path
    else:
        with pytest.raises(ValidationError):
            _data(path)


@pytest.mark.parametrize("value", [2, 0, "500m", "4Gi", "1.5Gi", "2"])
def test_a_quantity_keeps_the_type_it_was_written_in(value: int | str) -> None:
    assert Resources.model_validate({"limits": {"cpu": value}}).limits["cpu"] == value


@pytest.mark.parametrize("value", [True, 1.5, -1, "-1", "lots", "1 Gi", "", "1" * 40])
def test_what_is_no_quantity_is_refused(value: object) -> None:
    with pytest.raises(ValidationError):
        Resources.model_validate({"limits": {"cpu": value}})


@pytest.mark.parametrize("weight", ["25", 25.0, True])
def test_an_integer_is_never_guessed_from_another_type(weight: object) -> None:
    with pytest.raises(ValidationError):
        Step.model_validate({"setWeight": weight})


def test_null_means_absent_and_takes_the_default() -> None:
    assert Step.model_validate({"setWeight": 5, "pause": None}) == Step(set_weight=5)


def test_what_is_absent_is_not_written() -> None:
    assert _data("x").wire() == {"persistentVolumeClaim": {"claimName": "events"}, "path": "x"}


def test_an_unknown_field_is_an_error_and_not_ignored() -> None:
    with pytest.raises(ValidationError, match="pauze"):
        Step.model_validate({"setWeight": 5, "pauze": "5s"})


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("5m", 300), ("24h", 86400), ("30d", 2592000)])
def test_a_duration_is_worth_its_seconds(text: str, seconds: int) -> None:
    assert duration_seconds(text) == seconds


def test_an_instant_is_written_in_utc_whatever_zone_it_is_in() -> None:
    east = timezone(timedelta(hours=2))
    assert timestamp(datetime(2026, 11, 21, 14, 0, 0, 999999, tzinfo=east)) == "2026-11-21T12:00:00Z"


def test_what_is_written_is_read_back_equal() -> None:
    step = Step(set_weight=25, pause="2m")
    assert step.wire() == {"setWeight": 25, "pause": "2m"}
    assert Step.model_validate(step.wire()) == step
    assert isinstance(step, Wire)
