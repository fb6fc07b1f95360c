"""Listings come in pages, begin again where the apiserver has forgotten them, and take nothing for gone too early."""

from __future__ import annotations

from typing import Any

import pytest

from recast_operator.adapters.errors import Expired, NotFound, Transient
from recast_operator.adapters.kube import EXPERTS, PAGE, PODS, Kube, Request
from recast_operator.listing import ATTEMPTS, Listing
from recast_operator.store import Store
from tests.unit.operator.documents import expert

Object = dict[str, Any]


class Pages:
    """Answers a listing of experts with scripted pages; other kinds are empty."""

    def __init__(self, *pages: list[str] | Exception, version: str = "50") -> None:
        self.pages = list(pages)
        self.version = version
        self.asked: list[dict[str, str]] = []
        self.unknown: set[str] = set()

    async def send(self, request: Request) -> Any:
        params = dict(request.params or {})
        plural = request.path.rpartition("/")[2]
        if plural in self.unknown:
            raise NotFound("the server could not find the requested resource", status=404)
        if plural != "expertmodels":
            return {"metadata": {"resourceVersion": self.version}, "items": []}
        self.asked.append(params)
        page = self.pages.pop(0)
        if isinstance(page, Exception):
            raise page
        more = {"continue": f"token-{len(self.asked)}"} if self.pages else {}
        items = [expert(name, version=10 + number) for number, name in enumerate(page)]
        return {"metadata": {"resourceVersion": self.version, **more}, "items": items}


def experts(store: Store) -> list[str]:
    return store.names("ExpertModel", "n")


async def test_all_pages_are_read_with_the_token_of_the_one_before() -> None:
    api, store = Pages(["a", "b"], ["c"]), Store()
    assert await Listing(Kube(api), store, (None,), page=2).kind(EXPERTS) == 3
    assert experts(store) == ["a", "b", "c"]
    assert api.asked == [{"limit": "2"}, {"limit": "2", "continue": "token-1"}]


async def test_children_are_selected_by_our_label() -> None:
    asked: list[Request] = []

    class Answers:
        async def send(self, request: Request) -> Any:
            asked.append(request)
            return {"metadata": {"resourceVersion": "1"}, "items": []}

    await Listing(Kube(Answers()), Store(), ("one", "two")).kind(PODS)
    assert [request.path for request in asked] == ["/api/v1/namespaces/one/pods", "/api/v1/namespaces/two/pods"]
    assert {(request.params or {})["labelSelector"] for request in asked} == {"app.kubernetes.io/managed-by=recast"}
    assert {(request.params or {})["limit"] for request in asked} == {str(PAGE)}


async def test_a_listing_whose_beginning_is_forgotten_begins_again_and_forgets_nothing_meanwhile() -> None:
    api, store = Pages(["a"], Expired("too old", status=410), ["a"], ["b"]), Store()
    store.put("ExpertModel", expert("gone", version=5))
    await Listing(Kube(api), store, (None,)).kind(EXPERTS)
    assert experts(store) == ["a", "b"]
    assert [params.get("continue") for params in api.asked] == [None, "token-1", None, "token-3"]


async def test_a_listing_that_never_comes_to_its_end_is_an_error_and_removes_nothing() -> None:
    pages: list[Any] = [["a"], Expired("too old", status=410)] * ATTEMPTS
    api, store = Pages(*pages), Store()
    store.put("ExpertModel", expert("kept", version=5))
    with pytest.raises(Expired):
        await Listing(Kube(api), store, (None,)).kind(EXPERTS)
    assert experts(store) == ["a", "kept"]
    cut = Pages(["a"], Transient("cut"))
    with pytest.raises(Transient):
        await Listing(Kube(cut), store, (None,)).kind(EXPERTS)
    assert experts(store) == ["a", "kept"]


async def test_a_kind_that_is_not_served_stops_the_start_but_no_later_listing_and_is_not_taken_for_empty() -> None:
    api, store = Pages(["a"], ["a"]), Store()
    api.unknown.add("foundationmodels")
    store.put("FoundationModel", expert("home-fm", version=5) | {"kind": "FoundationModel"})
    with pytest.raises(NotFound):
        await Listing(Kube(api), store, (None,)).everything()
    better = await Listing(Kube(api), store, (None,)).again()
    assert store.names("FoundationModel", "n") == ["home-fm"]
    assert "FoundationModel" not in better
    assert better["ExpertModel"] == 1
    assert set(better) == {
        "ExpertModel",
        "ModelVersion",
        "Job",
        "Pod",
        "Deployment",
        "Service",
        "PodDisruptionBudget",
        "NetworkPolicy",
    }


async def test_a_listing_of_one_namespace_says_nothing_of_what_is_in_another() -> None:
    api, store = Pages(["a"]), Store()
    elsewhere = expert("b", version=5)
    elsewhere["metadata"]["namespace"] = "m"
    store.put("ExpertModel", elsewhere)
    await Listing(Kube(api), store, ("n",)).kind(EXPERTS)
    assert (experts(store), store.names("ExpertModel", "m")) == (["a"], ["b"])
