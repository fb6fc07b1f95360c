"""The servers of one revision of an expert."""

from __future__ import annotations

from recast_api import names
from recast_api.resources import ExpertServing
from recast_api.server import ExpertServerConfig
from recast_operator.children.labels import EXPERT_SERVER, Object, labels, metadata
from recast_operator.children.pod import deployment, server_pod


def expert_deployment(
    config: ExpertServerConfig, serving: ExpertServing, *, claim: str, replicas: int, owner: Object, template_hash: str
) -> Object:
    """``em-<model>-<revision>``: pods of one pair, pointing at their foundation lineage's Service."""
    name = names.revision_deployment(config.model, config.revision)
    marks = labels(
        EXPERT_SERVER,
        config.model,
        revision=config.revision,
        surface=config.surface,
        lineage=str(config.foundation.lineage),
    )
    pod = server_pod(
        image=serving.image,
        resources=serving.resources.wire(),
        grace_seconds=serving.termination_grace_period_seconds,
        config=config.model_dump_json(by_alias=True, exclude_none=True),
        claim=claim,
        ports={"http": names.EXPERT_PORT},
        marks=marks,
    )
    return deployment(metadata(name, config.namespace, owner, marks, template_hash), marks, replicas, pod)
