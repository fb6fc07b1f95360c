"""From a run to the AppDef: quantities, TorchX's resources, how the nodes find each other, what is mounted."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError
from run_builders import NAME, submission

from recast_api.resources import Resources
from recast_operator.adapters import appdef


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("500m", "0.5"),
        (2, "2"),
        ("2", "2"),
        ("0.5", "0.5"),
        ("1500m", "1.5"),
        ("1.5k", "1500"),
        ("1M", "1000000"),
        ("1G", "1000000000"),
        ("1T", "1000000000000"),
        ("1P", "1000000000000000"),
        ("2E", "2000000000000000000"),
        ("1Ki", "1024"),
        ("3Mi", str(3 * 2**20)),
        ("4Gi", str(4 * 2**30)),
        ("1Ti", str(2**40)),
        ("1Pi", str(2**50)),
        ("1Ei", str(2**60)),
        ("0", "0"),
    ],
)
def test_quantities_are_read_as_kubernetes_reads_them(text: int | str, number: str) -> None:
    assert appdef.quantity(text) == Decimal(number)


@pytest.mark.parametrize(
    "text", ["", "many", "5Xi", "m", "1e3", "1E3", "-1", "+1", "1 Gi", ".5", "5.", "1ki", "1mi", "1_0"]
)
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no quantity such as 500m, 2 or 4Gi"):
        appdef.quantity(text)


@given(
    st.one_of(
        st.from_regex(r"[0-9]{1,9}(\.[0-9]{1,3})?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|n|u|e3|E3|)", fullmatch=True),
        st.text(alphabet="019.kKmMiEe+- ", max_size=6),
        st.integers(min_value=0, max_value=10**9),
    )
)
@example("1E")
@example("1Ei")
@example("\u0661")
def test_the_operator_reads_exactly_the_quantities_that_the_api_takes(value: int | str) -> None:
    try:
        Resources.model_validate({"limits": {"cpu": value}})
    except ValidationError:
        with pytest.raises(ValueError, match="no quantity"):
            appdef.quantity(value)
    else:
        assert appdef.quantity(value) >= 0


@pytest.mark.parametrize(
    ("requests", "limits", "expected"),
    [
        ({}, {}, (1, 0, 1024)),
        ({"cpu": "500m", "memory": "1Gi"}, {}, (1, 0, 1024)),
        ({"cpu": "1", "memory": "1Gi"}, {"cpu": "2500m", "memory": "2Gi"}, (3, 0, 2048)),
        ({}, {"nvidia.com/gpu": 8, "cpu": 2}, (2, 8, 1024)),
        ({"memory": "100M"}, {}, (1, 0, 96)),
        ({"cpu": 4}, {"memory": "1Gi"}, (4, 0, 1024)),
    ],
)
def test_torchx_sees_limits_else_requests_rounded_up_to_what_it_can_say(
    requests: dict[str, Any], limits: dict[str, Any], expected: tuple[int, int, int]
) -> None:
    found = appdef.resource(Resources(requests=requests, limits=limits))
    assert (found.cpu, found.gpu, found.memMB) == expected


def test_one_node_needs_no_rendezvous() -> None:
    assert appdef.torchrun_arguments("j", nodes=1, processes=4) == ["--standalone", "--nnodes=1", "--nproc-per-node=4"]


def test_more_nodes_meet_at_pod_0_statically_each_with_the_rank_of_its_index() -> None:
    assert appdef.torchrun_arguments("j", nodes=3, processes=8) == [
        "--nnodes=3",
        "--nproc-per-node=8",
        "--rdzv-backend=static",
        "--rdzv-id=j",
        "--rdzv-endpoint=j-0.j:29500",
        "--node-rank=$(JOB_COMPLETION_INDEX)",
    ]


def test_the_role_is_one_gang_of_torchrun_that_torchx_never_restarts() -> None:
    request = submission(nodes=2)
    app = appdef.build(request)
    (role,) = app.roles
    assert (app.name, role.name, role.image, role.entrypoint) == (
        NAME,
        "trainer",
        "recast.invalid/trainer:0.1.0",
        "torchrun",
    )
    assert (role.num_replicas, role.max_retries, role.port_map) == (2, 0, {"rendezvous": 29500})
    assert role.args[-3:] == ["-m", "recast_trainer", "run"]
    assert role.args[1] == "--nproc-per-node=2"
    assert json.loads(role.env["RECAST_RUN"]) == request.run.wire()
    assert role.env["POD_NAME"] == "[FIELD_PATH]metadata.name"
    assert role.env["POD_NAMESPACE"] == "[FIELD_PATH]metadata.namespace"
    assert role.env["HOME"] == "/tmp"


def test_models_are_mounted_to_write_and_data_to_read() -> None:
    (role,) = appdef.build(submission(data_claim="events")).roles
    assert [(mount.src, mount.dst_path, mount.read_only) for mount in role.mounts] == [
        ("models", "/var/recast/models", False),
        ("events", "/var/recast/data", True),
    ]


def test_resources_travel_as_written_and_are_torchx_own_where_nothing_was() -> None:
    written = Resources(requests={"cpu": "500m"}, limits={"memory": "2Gi"})
    (role,) = appdef.build(submission(resources=written)).roles
    assert role.metadata == {appdef.EXACT_RESOURCES: {"requests": {"cpu": "500m"}, "limits": {"memory": "2Gi"}}}
    (role,) = appdef.build(submission(resources=Resources())).roles
    assert role.metadata == {}
    assert (role.resource.cpu, role.resource.memMB) == (1, 1024)
