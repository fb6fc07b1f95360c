"""A line to the real apiserver for each test of the operator."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from dev.cluster.controlplane import ControlPlane
from recast_operator.adapters.credentials import from_kubeconfig
from recast_operator.adapters.kube import HttpRequester


@pytest_asyncio.fixture
async def requester(control_plane: ControlPlane, recast: httpx.Client) -> AsyncIterator[HttpRequester]:
    """The administrator's, with Recast's definitions installed."""
    made = HttpRequester(from_kubeconfig(control_plane.kubeconfig))
    yield made
    await made.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs the control plane."""
    for item in items:
        if "integration/operator" in str(item.path):
            item.add_marker(pytest.mark.integration)
