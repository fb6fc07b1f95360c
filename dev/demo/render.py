"""Copies of the example files with the cluster's image references and storage class in them. Pure but for the writing.

The files in ``examples/`` name images as ``recast.invalid/<part>:0.1.0``: a host that never resolves, so that no
stranger's image is pulled by mistake. What is applied is a copy with the references that this cluster has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from dev.cluster.oci import REGISTRY

_IMAGE = re.compile(rf"(?P<key>image:\s*){re.escape(REGISTRY)}/(?P<part>[a-z-]+):[\w.-]+")
_CLASS = re.compile(r"(?P<key>storageClassName:\s*)recast-local")


class UnknownImageError(Exception):
    """An example names an image that the cluster does not have."""


def render(text: str, images: Mapping[str, str], storage_class: str = "recast-local") -> str:
    """The YAML text with references replaced. Raises :class:`UnknownImageError`."""

    def reference(match: re.Match[str]) -> str:
        part = match["part"]
        if part not in images:
            raise UnknownImageError(
                f"no image for {REGISTRY}/{part}: known are {', '.join(sorted(images))}; "
                f"run make images, or set {variable(part)} to a reference that the cluster can pull"
            )
        return match["key"] + images[part]

    return _CLASS.sub(rf"\g<key>{storage_class}", _IMAGE.sub(reference, text))


def variable(part: str) -> str:
    """The environment variable that overrides one image: ``TRAINER_IMAGE`` for ``trainer``."""
    return part.upper().replace("-", "_") + "_IMAGE"


def write(source: Path, target: Path, images: Mapping[str, str], storage_class: str = "recast-local") -> Path:
    """Render one file into the folder ``target`` and return the copy's path."""
    target.mkdir(parents=True, exist_ok=True)
    copy = target / source.name
    copy.write_text(render(source.read_text(), images, storage_class))
    return copy
