"""Objects of the apiserver are parsed once and complained about once."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest

from recast_api.resources import ExpertModel, FoundationModel
from recast_operator.adapters.errors import Invalid
from recast_operator.parsing import Parser
from recast_operator.store import Stored, stored
from tests.unit.api.test_tolerant_reading import EXPERT

Object = dict[str, Any]


def raw(version: str = "1", **spec: Any) -> Stored:
    return stored("ExpertModel", document(version, **spec))


def document(version: str = "1", **spec: Any) -> Object:
    made = copy.deepcopy(EXPERT)
    made["metadata"]["resourceVersion"] = version
    made["spec"] |= spec
    return made


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_an_object_is_parsed_anew_only_when_it_has_changed() -> None:
    parser = Parser()
    first = parser.read(ExpertModel, raw())
    assert parser.read(ExpertModel, raw()) is first
    assert parser.read(ExpertModel, raw("2", suspend=True)).model.spec.suspend
    changed = parser.read(ExpertModel, raw("2"))
    parser.forget("ExpertModel", "u")
    assert parser.read(ExpertModel, raw("2")) is not changed


def elsewhere(uid: str, namespace: str) -> Stored:
    made = document()
    made["metadata"] |= {"uid": uid, "namespace": namespace}
    return stored("ExpertModel", made)


def test_models_of_one_name_in_two_namespaces_are_two_models() -> None:
    parser, here, there = Parser(), elsewhere("u1", "one"), elsewhere("u2", "two")
    assert [parser.read(ExpertModel, entry).model.metadata.namespace for entry in (here, there)] == ["one", "two"]
    assert len(parser) == 2


def test_what_is_asked_for_again_and_again_stays_parsed_longest() -> None:
    parser = Parser(room=2)
    often, *others = (elsewhere(f"u{number}", "n") for number in range(4))
    first = parser.read(ExpertModel, often)
    for entry in others:
        parser.read(ExpertModel, entry)
        assert parser.read(ExpertModel, often) is first


def test_what_is_not_understood_is_logged_once_while_it_is_the_same(caplog: pytest.LogCaptureFixture) -> None:
    parser = Parser()
    for version in ("1", "2", "3"):
        for _ in range(3):
            assert parser.read(ExpertModel, raw(version, novelty=1)).doubts
    assert said(caplog) == ["ExpertModel n/reels: spec.novelty: this version does not know the field"]
    parser.read(ExpertModel, raw("4", other=1))
    assert len(said(caplog)) == 2
    parser.read(ExpertModel, raw("5"))
    assert len(said(caplog)) == 2
    parser.read(ExpertModel, raw("6", other=1))
    assert len(said(caplog)) == 3, "it went away and came back"


def test_what_cannot_be_read_is_tried_and_logged_once_and_raised_every_time(caplog: pytest.LogCaptureFixture) -> None:
    parser = Parser()
    for _ in range(3):
        with pytest.raises(Invalid, match=r"ExpertModel n/reels: spec\.surface: .*CustomResourceDefinitions"):
            parser.read(ExpertModel, raw(surface=7))
    assert len(said(caplog)) == 1
    assert parser.read(ExpertModel, raw("2")).doubts == ()


def test_a_value_that_was_refused_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Invalid):
        Parser().read(ExpertModel, raw(surface="the secret"))
    Parser().read(ExpertModel, raw(novelty="the secret", training={"image": "trainer:1", "token": "the secret"}))
    assert said(caplog)
    assert "the secret" not in "".join(said(caplog))


def test_two_kinds_of_one_uid_are_two_objects_and_null_metadata_is_absent() -> None:
    parser = Parser()
    whole = document()
    whole["metadata"]["labels"] = None
    made = stored("ExpertModel", whole)
    assert parser.read(ExpertModel, made).model.metadata.labels == {}
    with pytest.raises(Invalid):
        parser.read(FoundationModel, made)
