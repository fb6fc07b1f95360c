"""From a training run to a TorchX ``AppDef``: torchrun over ``nodes`` × ``procsPerNode`` processes.

The AppDef says what runs; :mod:`recast_operator.adapters.job_scheduler` says as which Kubernetes objects. The run
itself travels in the environment, so that the immutable Job is the snapshot of its configuration.
"""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from typing import Any

from torchx import specs

from recast_api import names
from recast_api.resources import Resources
from recast_operator.planning.plan import SubmitRun

ROLE = "trainer"
FIELD_PATH = "[FIELD_PATH]"
"""TorchX's own mark for an environment value that Kubernetes fills in from the pod."""
EXACT_RESOURCES = "recast.dev/resources"
"""Key of ``Role.metadata``: requests and limits as written, since TorchX's Resource holds whole CPUs and MiB only."""

_QUANTITY = re.compile(r"(?P<number>[0-9]+(\.[0-9]+)?)(?P<unit>m|[kMGTPE]|[KMGTPE]i)?")
_UNITS = {
    "m": Decimal("0.001"),
    **{unit: Decimal(1000) ** power for power, unit in enumerate(("k", "M", "G", "T", "P", "E"), 1)},
    **{unit: Decimal(1024) ** power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)},
}


def quantity(value: int | str) -> Decimal:
    """The number in a quantity as the API takes it: no sign and no exponent. Raises :class:`ValueError` for others."""
    found = _QUANTITY.fullmatch(str(value))
    if found is None:
        raise ValueError(f"{value!r} is no quantity such as 500m, 2 or 4Gi")
    return Decimal(found["number"]) * _UNITS.get(found["unit"], Decimal(1))


def resource(resources: Resources) -> specs.Resource:
    """TorchX's view of a process group's resources: limits, else requests, rounded up; 1 CPU and 1 GiB where unsaid."""
    merged = {**resources.requests, **resources.limits}
    return specs.Resource(
        cpu=math.ceil(quantity(merged.get("cpu", 1))),
        gpu=math.ceil(quantity(merged.get("nvidia.com/gpu", 0))),
        memMB=math.ceil(quantity(merged.get("memory", "1Gi")) / 2**20),
    )


def torchrun_arguments(job: str, nodes: int, processes: int) -> list[str]:
    """Arguments of torchrun.

    One node needs no rendezvous. More meet at pod 0, statically: pod *i* is node *i*, so that global rank 0 is always
    in pod 0, and pod 0 need not recognise itself by a name that the DNS has not heard of yet.
    """
    if nodes == 1:
        return ["--standalone", "--nnodes=1", f"--nproc-per-node={processes}"]
    return [
        f"--nnodes={nodes}",
        f"--nproc-per-node={processes}",
        "--rdzv-backend=static",
        f"--rdzv-id={job}",
        f"--rdzv-endpoint={job}-0.{job}:{names.RENDEZVOUS_PORT}",
        # Expanded by the kubelet, from the variable that the Job controller sets in every pod of an Indexed Job.
        "--node-rank=$(JOB_COMPLETION_INDEX)",
    ]


def build(request: SubmitRun) -> specs.AppDef:
    """The AppDef of one attempt. Pure."""
    run, training = request.run, request.training
    env: dict[str, str] = {
        names.RUN_ENV: json.dumps(run.wire(), sort_keys=True, separators=(",", ":")),
        "POD_NAME": FIELD_PATH + "metadata.name",
        "POD_NAMESPACE": FIELD_PATH + "metadata.namespace",
        "HOME": names.SCRATCH_MOUNT,  # the image's home is read-only
    }
    exact: dict[str, Any] = training.resources.wire()
    return specs.AppDef(
        name=run.job_name,
        roles=[
            specs.Role(
                name=ROLE,
                image=training.image,
                entrypoint="torchrun",
                args=[
                    *torchrun_arguments(run.job_name, training.nodes, training.procs_per_node),
                    "-m",
                    "recast_trainer",
                    "run",
                ],
                env=env,
                num_replicas=training.nodes,
                max_retries=0,
                resource=resource(training.resources),
                port_map={"rendezvous": names.RENDEZVOUS_PORT},
                mounts=[
                    specs.VolumeMount(src=request.models_claim, dst_path=names.MODELS_MOUNT, read_only=False),
                    specs.VolumeMount(src=request.data_claim, dst_path=names.DATA_MOUNT, read_only=True),
                ],
                metadata={EXACT_RESOURCES: exact} if any(exact.values()) else {},
            )
        ],
    )
