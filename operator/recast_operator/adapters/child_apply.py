"""Applying a child, also where a plain server-side apply does not make it what it should be.

Two things can stand in the way: what somebody set beside our fields (:func:`_take_back`), and an admission webhook that
changes what we said (:func:`recast_operator.children.record.admitted`).
"""

from __future__ import annotations

from recast_api import names
from recast_operator.adapters.errors import Invalid
from recast_operator.adapters.kube import BY_KIND, MERGE, Kube, Request
from recast_operator.children.labels import Object
from recast_operator.children.record import admitted


async def apply_child(kube: Kube, child: Object) -> Object:
    """Rewrite or repair a child; the object as the apiserver then has it."""
    return await as_admitted(kube, child, await _applied(kube, child))


async def as_admitted(kube: Kube, child: Object, made: Object) -> Object:
    """Note on a child, which was applied and has become ``made``, what admission changed of it."""
    again = admitted(child, made)
    return made if again is None else await kube.apply(again)


async def _applied(kube: Kube, child: Object) -> Object:
    try:
        return await kube.apply(child)
    except Invalid:
        if names.ANNOTATION_REPAIRS not in child["metadata"]["annotations"]:
            raise
        return await _take_back(kube, child)


async def _take_back(kube: Kube, child: Object) -> Object:
    """Repair a child where its own fields and somebody else's make an object that the apiserver refuses.

    Two types of one volume, two ports of one name: a forced apply keeps what others have set. So the spec is replaced
    whole, the record of who set what is dropped, and the apply makes all of it ours. Others' additions are lost.
    Raises :class:`Conflict` where the object changes meanwhile.
    """
    resource, metadata = BY_KIND[child["kind"]], child["metadata"]
    path, params = resource.path(metadata["namespace"], metadata["name"]), {"fieldManager": names.FIELD_MANAGER}
    live = await kube.get(resource, metadata["namespace"], metadata["name"])
    await kube.requester.send(Request("PUT", path, body={**live, "spec": child["spec"]}, params=params))
    nobody: Object = {"metadata": {"managedFields": [{}]}}
    await kube.requester.send(Request("PATCH", path, body=nobody, content_type=MERGE, params=params))
    return await kube.apply(child)
