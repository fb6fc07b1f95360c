"""Real server processes on loopback, serving small artefacts of random weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from server_processes import Process, starter, stop
from server_world import Landed, Pair, World, land_expert, land_foundation


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Landed, Landed, Landed]:
    root = tmp_path_factory.mktemp("models")
    foundation, other = land_foundation(root, 1), land_foundation(root, 2)
    return root, foundation, other, land_expert(root, 1, foundation)


@pytest.fixture
def world(artifacts: tuple[Path, Landed, Landed, Landed], tmp_path: Path) -> Iterator[World]:
    """A world whose processes live for one test."""
    running: list[Process] = []
    yield World(*artifacts, starter(tmp_path, running))
    stop(running)


@pytest.fixture(scope="session")
def pair(artifacts: tuple[Path, Landed, Landed, Landed], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A foundation and its expert that all tests share which do no harm to them."""
    running: list[Process] = []
    world = World(*artifacts, starter(tmp_path_factory.mktemp("pair"), running))
    foundation = world.start(world.foundation_config(world.foundation)).wait_serving()
    expert = world.start(world.expert_config(foundation.port)).wait_serving()
    yield Pair(world, foundation, expert)
    stop(running)
