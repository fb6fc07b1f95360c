"""A run to submit, and an apiserver that answers only what a test scripts."""

from __future__ import annotations

from typing import Any

from recast_api.resources import Resources, Training
from recast_api.resources.foundation import Architecture
from recast_api.run import DataRef, Optimization, TrainingRun
from recast_operator.adapters.kube import Request, Requester
from recast_operator.adapters.torchx import Launcher
from recast_operator.planning.plan import SubmitRun

NAME = "fm-home-fm-r3-a2"
OWNER = {
    "apiVersion": "recast.dev/v1alpha1",
    "kind": "FoundationModel",
    "name": "home-fm",
    "uid": "uid-of-home-fm",
    "controller": True,
    "blockOwnerDeletion": True,
}


def submission(nodes: int = 2, data_claim: str = "data", **training: Any) -> SubmitRun:
    """The second attempt of run 3 of home-fm, in namespace demo."""
    resources = Resources(requests={"cpu": "500m", "memory": "1Gi"}, limits={"memory": "2Gi"})
    return SubmitRun(
        run=TrainingRun(
            kind="FoundationModel",
            namespace="demo",
            model="home-fm",
            uid="uid-of-home-fm",
            number=3,
            attempt=2,
            job_name="fm-home-fm-r3-a2",
            inputs_hash="abc",
            models_root="/var/recast/models",
            data_root="/var/recast/data",
            data=DataRef(path="stream"),
            optimization=Optimization(batch_size=32, learning_rate="0.003"),
            architecture=Architecture(),
        ),
        training=Training(
            image="recast.invalid/trainer:0.1.0",
            nodes=nodes,
            procs_per_node=2,
            **{"resources": resources, **training},
        ),
        models_claim="models",
        data_claim=data_claim,
        owner=OWNER,
    )


async def submit(requester: Requester, request: SubmitRun | None = None, namespace: str = "demo") -> str:
    """Create or adopt the Job of a run, as the operator does."""
    launcher = Launcher(requester)
    try:
        return await launcher.submit(namespace, request or submission())
    finally:
        launcher.close()


class Scripted:
    """Answers requests in the order of the script, ``("GET /path", answer or error)``; any other one fails the test."""

    def __init__(self, *script: tuple[str, Any]) -> None:
        self._script = list(script)
        self.sent: list[Request] = []

    def send(self, request: Request) -> Any:
        self.sent.append(request)
        assert self._script, f"nothing is scripted for {request}"
        expected, answer = self._script.pop(0)
        assert str(request) == expected
        if isinstance(answer, Exception):
            raise answer
        return answer

    def finish(self) -> list[Request]:
        """All requests, once the script was played to its end."""
        assert self._script == [], "these were not asked for"
        return self.sent
