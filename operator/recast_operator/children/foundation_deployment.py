"""The servers of one foundation lineage."""

from __future__ import annotations

from recast_api import names
from recast_api.resources import FoundationServing
from recast_api.server import FoundationServerConfig
from recast_operator.children.labels import FOUNDATION_SERVER, ChildMeta, Object, labels, metadata
from recast_operator.children.pod import ServerPod, deployment


def foundation_deployment(
    config: FoundationServerConfig, serving: FoundationServing, child: ChildMeta, *, claim: str
) -> Object:
    """``fm-<model>-l<lineage>``: all its pods serve the same version."""
    marks = labels(FOUNDATION_SERVER, config.model, lineage=str(config.artifact.lineage))
    pod = ServerPod(
        serving=serving,
        config=config,
        claim=claim,
        ports={"grpc": names.FOUNDATION_GRPC_PORT},
        marks=marks,
    )
    return deployment(metadata(child, marks), marks, serving.replicas, pod.template())
