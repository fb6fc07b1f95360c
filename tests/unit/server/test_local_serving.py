"""A version's folder is all that a server needs where there is no operator."""

from __future__ import annotations

from pathlib import Path

import pytest
from server_builders import LandedPair, land_pair

from recast_api.run import RecastError
from recast_api.server import ExpertServerConfig, FoundationServerConfig
from recast_server.local import local_config
from recast_server.main import main, verify


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> LandedPair:
    return land_pair(tmp_path_factory.mktemp("models"))


def test_a_folder_says_which_server_it_needs_and_with_which_pair(pair: LandedPair) -> None:
    foundation = local_config(pair.foundation_folder, "127.0.0.1:1")
    expert = local_config(pair.expert_folder, "127.0.0.1:7")
    assert isinstance(foundation, FoundationServerConfig)
    assert verify(foundation) == pair.foundation_manifest
    assert isinstance(expert, ExpertServerConfig)
    assert verify(expert) == pair.expert_manifest
    assert (expert.foundation_address, expert.foundation) == ("127.0.0.1:7", pair.expert_manifest.foundation)
    assert {task.name: float(task.weight) for task in expert.tasks} == {
        task["name"]: task["weight"] for task in pair.expert_manifest.config["tasks"]
    }


def test_what_is_no_version_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RecastError, match=str(tmp_path)):
        local_config(tmp_path, "127.0.0.1:1")


def test_the_command_checks_a_folder(pair: LandedPair, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--check", "--artifact", str(pair.expert_folder)], termination_log=tmp_path / "none") == 0
    assert pair.expert_manifest.digest in capsys.readouterr().out
