"""Listings: everything there is, a page at a time, put beside what the watches have said.

At the start they fill the memory, and every ``resync_seconds`` they find what a watch has missed. A kind that is not
served, since its CustomResourceDefinition is gone, stops no other kind.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from recast_api.names import LABEL_MANAGED_BY, MANAGED_BY
from recast_operator.adapters.errors import Expired, NotFound
from recast_operator.adapters.kube import CHILDREN, MODELS, PAGE, Kube, Resource
from recast_operator.store import Store

logger = logging.getLogger(__name__)

OURS = f"{LABEL_MANAGED_BY}={MANAGED_BY}"
ATTEMPTS = 3


def selector(resource: Resource) -> str:
    """The label selector by which a kind is listed and watched."""
    return OURS if resource in CHILDREN else ""


class Listing:
    """Lists into a store. ``scopes`` are namespaces, or None for all of them."""

    def __init__(self, kube: Kube, store: Store, scopes: Sequence[str | None], page: int = PAGE) -> None:
        self._kube = kube
        self._store = store
        self._scopes = scopes
        self._page = page

    async def everything(self) -> None:
        """All kinds. Raises :class:`OutsideError`: :class:`NotFound` where a kind is not served."""
        for resource in (*MODELS, *CHILDREN):
            await self.kind(resource)

    async def again(self) -> dict[str, int]:
        """The same; by kind, how many objects the listing knew better than the store. Raises :class:`OutsideError`.

        A kind that is not served is left as it is: absent is only what a listing shows to be absent.
        """
        better = {}
        for resource in (*MODELS, *CHILDREN):
            try:
                better[resource.kind] = await self.kind(resource)
            except NotFound:
                logger.warning("%s is not served by the apiserver: is its definition installed?", resource.kind)
        return better

    async def kind(self, resource: Resource) -> int:
        """One kind, in all scopes; how many objects the listing knew better than the store.

        Raises :class:`OutsideError`; :class:`Expired` only where a listing took too long several times.
        """
        return sum([await self._scope(resource, scope) for scope in self._scopes])

    async def _scope(self, resource: Resource, scope: str | None) -> int:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await self._pages(resource, scope)
            except Expired:
                if attempt == ATTEMPTS:
                    raise
                logger.info("listing %s again: the apiserver has forgotten its beginning", resource.plural)
        raise AssertionError("unreachable")

    async def _pages(self, resource: Resource, scope: str | None) -> int:
        better, listed, version = 0, set(), ""
        async for page in self._kube.pages(resource, scope, selector(resource), self._page):
            version = page["metadata"]["resourceVersion"]
            for raw in page.pop("items"):
                listed.add(raw["metadata"]["uid"])
                better += self._store.put(resource.kind, raw)
        return better + self._store.complete(resource.kind, listed, version, scope)
