"""Applying a child past other people's fields and past admission."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from recast_operator.adapters.child_apply import apply_child
from recast_operator.adapters.errors import Conflict, Invalid
from recast_operator.adapters.kube import Kube, Request
from recast_operator.children.record import admitted, read, recorded

Object = dict[str, Any]


def child(repairs: int = 0) -> Object:
    body = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "em-reels",
            "namespace": "n",
            "labels": {"a": "b"},
            "annotations": {"recast.dev/template-hash": "h"},
            "ownerReferences": [{"uid": "me", "controller": True}],
        },
        "spec": {"selector": {"a": "b"}, "ports": [{"name": "http", "port": 80}]},
    }
    return recorded(body, repairs=repairs)


class Apiserver:
    """Answers applies from a script: an error, or a change that admission makes."""

    def __init__(self, *script: Any) -> None:
        self._script = list(script)
        self.sent: list[Request] = []

    async def send(self, request: Request) -> Any:
        self.sent.append(request)
        if request.method == "GET":
            return {"metadata": {"resourceVersion": "7", "name": "em-reels"}, "spec": {"theirs": True}}
        answer = self._script.pop(0) if self._script else None
        if isinstance(answer, Exception):
            raise answer
        made = copy.deepcopy(request.body)
        if answer is not None:
            answer(made)
        return made

    @property
    def methods(self) -> list[str]:
        return [f"{request.method} {request.content_type}" for request in self.sent]


APPLY, MERGE = "PATCH application/apply-patch+yaml", "PATCH application/merge-patch+json"


async def test_a_child_that_is_made_as_asked_is_one_request() -> None:
    server = Apiserver()
    made = await apply_child(Kube(server), child())
    assert made == child()
    assert server.methods == [APPLY]


def rewrite(made: Object) -> None:
    made["spec"]["ports"][0]["name"] = "rewritten"


async def test_what_admission_makes_of_a_child_is_recorded_and_is_no_drift_but_another_change_is() -> None:
    server = Apiserver(rewrite, rewrite)
    made = await apply_child(Kube(server), child(repairs=2))
    assert server.methods == [APPLY, APPLY]
    assert read(made).drift == ()
    assert read(made).repairs == 2
    assert made["spec"]["ports"][0]["name"] == "rewritten"
    assert admitted(child(), made) is None
    made["spec"]["ports"][0]["name"] = "by somebody"
    assert len(read(made).drift) == 1
    assert json.loads(read(made).applied)["spec"]["ports"][0]["name"] == "http"


async def test_a_repair_that_the_apiserver_refuses_replaces_the_spec_and_makes_every_field_ours() -> None:
    server = Apiserver(Invalid("two ports of one name", status=422))
    made = await apply_child(Kube(server), child(repairs=1))
    assert server.methods == [APPLY, "GET application/json", "PUT application/json", MERGE, APPLY]
    put, reset = server.sent[2].body, server.sent[3].body
    assert put is not None
    assert put["spec"] == child()["spec"]
    assert put["metadata"]["resourceVersion"] == "7"
    assert reset == {"metadata": {"managedFields": [{}]}}
    assert {request.path for request in server.sent} == {"/api/v1/namespaces/n/services/em-reels"}
    assert all((request.params or {}).get("fieldManager") == "recast" for request in server.sent if request.body)
    assert read(made).drift == ()


@pytest.mark.parametrize(
    ("body", "script", "error", "requests"),
    [
        (child(), [Invalid("no", status=422)], Invalid, 1),
        (child(repairs=1), [Conflict("no", status=409)], Conflict, 1),
        (child(repairs=1), [Invalid("no", status=422), Conflict("no", status=409)], Conflict, 3),
        (child(repairs=1), [Invalid("no", status=422), Invalid("no", status=422)], Invalid, 3),
    ],
)
async def test_what_is_refused_for_another_reason_is_said(
    body: Object, script: list[Exception], error: type[Exception], requests: int
) -> None:
    server = Apiserver(*script)
    with pytest.raises(error):
        await apply_child(Kube(server), body)
    assert len(server.sent) == requests
