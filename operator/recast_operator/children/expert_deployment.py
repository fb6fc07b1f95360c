"""The servers of one revision of an expert."""

from __future__ import annotations

from recast_api import names
from recast_api.resources import ExpertServing
from recast_api.server import ExpertServerConfig
from recast_operator.children.histories import one_writer
from recast_operator.children.labels import EXPERT_SERVER, ChildMeta, Object, labels, metadata
from recast_operator.children.pod import RECREATE, ROLLING, ServerPod, deployment


def expert_deployment(
    config: ExpertServerConfig, serving: ExpertServing, child: ChildMeta, *, claim: str, replicas: int
) -> Object:
    """``em-<model>-<revision>``: pods of one pair, pointing at their foundation lineage's Service."""
    marks = labels(
        EXPERT_SERVER,
        config.model,
        revision=config.revision,
        surface=config.surface,
        lineage=str(config.foundation.lineage),
    )
    pod = ServerPod(
        serving=serving,
        config=config,
        claim=claim,
        ports={"http": names.EXPERT_PORT, "grpc": names.EXPERT_GRPC_PORT},
        marks=marks,
    )
    strategy = RECREATE if one_writer(serving.histories) else ROLLING
    return deployment(metadata(child, marks), marks, replicas, pod.template(), strategy)
