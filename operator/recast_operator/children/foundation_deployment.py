"""The servers of one foundation lineage."""

from __future__ import annotations

from recast_api import names
from recast_api.resources import FoundationServing
from recast_api.server import FoundationServerConfig
from recast_operator.children.labels import FOUNDATION_SERVER, Object, labels, metadata
from recast_operator.children.pod import deployment, server_pod


def foundation_deployment(
    config: FoundationServerConfig,
    serving: FoundationServing,
    *,
    claim: str,
    replicas: int,
    owner: Object,
    template_hash: str,
) -> Object:
    """``fm-<model>-l<lineage>``: all its pods serve the same version."""
    lineage = config.artifact.lineage
    name = names.lineage_server(config.model, lineage)
    marks = labels(FOUNDATION_SERVER, config.model, lineage=str(lineage))
    pod = server_pod(
        image=serving.image,
        resources=serving.resources.wire(),
        grace_seconds=serving.termination_grace_period_seconds,
        config=config.model_dump_json(by_alias=True, exclude_none=True),
        claim=claim,
        ports={"grpc": names.FOUNDATION_GRPC_PORT},
        marks=marks,
    )
    return deployment(metadata(name, config.namespace, owner, marks, template_hash), marks, replicas, pod)
