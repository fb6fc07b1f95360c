"""The configuration of a server for a version on this machine, where no operator makes one."""

from __future__ import annotations

from pathlib import Path

from recast_api.manifest import load_verified
from recast_api.resources.expert import Task
from recast_api.run import RecastError
from recast_api.server import ExpertServerConfig, FoundationServerConfig, ServedArtifact

REVISION = "local"
SLO_MILLISECONDS, FOUNDATION_DEADLINE_MILLISECONDS, CONNECTION_AGE_SECONDS = 200, 100, 30
"""As in the reference, where a resource does not say."""


def local_config(folder: Path, foundation_address: str) -> FoundationServerConfig | ExpertServerConfig:
    """What serves the version in ``folder``: an expert asks the foundation at ``host:port``.

    Raises :class:`RecastError` where there is no version, or one whose files are not its own.
    """
    folder = folder.resolve()
    manifest = load_verified(folder, None)
    artifact = ServedArtifact(
        root=str(folder.parent),
        path=folder.name,
        version=manifest.number,
        lineage=manifest.lineage,
        digest=manifest.digest,
    )
    if manifest.kind == "FoundationModel":
        return FoundationServerConfig(namespace="local", model=manifest.model, artifact=artifact)
    if manifest.foundation is None:
        raise RecastError("WrongKind", f"{folder} holds an expert without a foundation: train it with one")
    return ExpertServerConfig(
        namespace="local",
        model=manifest.model,
        surface=manifest.config["surface"],
        revision=REVISION,
        tasks=[Task(name=task["name"], weight=str(task["weight"])) for task in manifest.config["tasks"]],
        artifact=artifact,
        foundation=manifest.foundation,
        foundation_address=foundation_address,
        slo_milliseconds=SLO_MILLISECONDS,
        foundation_deadline_milliseconds=FOUNDATION_DEADLINE_MILLISECONDS,
        max_connection_age_seconds=CONNECTION_AGE_SECONDS,
    )
