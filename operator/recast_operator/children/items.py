"""What a file of new items adds to a server's pod: where it is told to look, and the volume, to be read alone."""

from __future__ import annotations

from recast_api import names
from recast_api.resources.serving import ItemsFile
from recast_api.server import ServedItems
from recast_operator.children.labels import Object


def served_items(items: ItemsFile | None) -> ServedItems | None:
    """The file as the server is told of it."""
    if items is None:
        return None
    return ServedItems(path=f"{names.ITEMS_MOUNT}/{items.path}", every_seconds=items.every_seconds)


def volumes(items: ItemsFile | None) -> list[Object]:
    """Volumes of the pod."""
    if items is None:
        return []
    claim = {"claimName": items.persistent_volume_claim.claim_name, "readOnly": True}
    return [{"name": "items", "persistentVolumeClaim": claim}]


def mounts(items: ItemsFile | None) -> list[Object]:
    """Where its container has them."""
    return [{**_MOUNT}] if items is not None else []


_MOUNT: Object = {"name": "items", "mountPath": names.ITEMS_MOUNT, "readOnly": True}
"""All of the volume, and no ``subPath``: a file that was renamed into place would never be seen through one."""
