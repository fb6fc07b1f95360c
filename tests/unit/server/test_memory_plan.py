"""A foundation's server starts only where all that it may need fits, and takes no more for keys and values."""

from __future__ import annotations

from pathlib import Path

import pytest

from recast_api.run import RecastError
from recast_server.foundation.memory import MIB, memory_limit, plan_memory, resident_bytes


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"memory.max": "536870912\n"}, 1 << 29),
        ({"memory.max": "max\n"}, None),
        ({"memory/memory.limit_in_bytes": "1048576\n"}, 1 << 20),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ({}, None),
    ],
    ids=["v2", "v2 without", "v1", "v1 without", "no cgroup"],
)
def test_the_limit_is_that_of_either_version_of_cgroups(
    tmp_path: Path, files: dict[str, str], limit: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert memory_limit(tmp_path) == limit


def test_what_is_resident_is_read_in_bytes() -> None:
    before = resident_bytes()
    assert 10 * MIB < before < 100_000 * MIB
    taken = bytearray(b"x" * (64 * MIB))
    assert resident_bytes() - before > 48 * MIB
    del taken


def plan(asked: int | None, limit: int | None, least: int = 16) -> int:
    """Mebibytes for keys and values, with 300 resident, weights of 50 and activations of 30."""
    found = plan_memory(asked, least * MIB, limit and limit * MIB, 300 * MIB, 50 * MIB, 30 * MIB)
    assert found.needed == pytest.approx(1.2 * (380 * MIB + found.kept), abs=1)
    return found.kept // MIB


def test_keys_and_values_get_what_is_asked_or_a_half_of_what_a_limit_leaves() -> None:
    assert plan(None, None) == 256
    assert plan(100, None) == plan(100, 10_000) == 100
    assert plan(None, 10_000) == 256
    assert plan(None, 600) == 60  # of 500 without a fifth, 120 are left
    assert plan(0, None) == plan(1, None) == 16


def test_reading_new_items_has_its_room_before_keys_and_values_get_theirs() -> None:
    found = plan_memory(None, 16 * MIB, 600 * MIB, 300 * MIB, 50 * MIB, 30 * MIB, 40 * MIB)
    assert found.kept == 40 * MIB  # of 500 without a fifth, 80 are left
    assert found.needed == pytest.approx(1.2 * 460 * MIB, abs=1)
    assert found.log_fields()["itemsMiB"] == 40


def test_what_does_not_fit_is_refused_with_all_of_its_terms() -> None:
    assert plan(None, 480) == 16
    assert plan(20, 480) == 20
    for asked, limit in ((21, 480), (None, 475), (0, 475), (None, 300)):
        with pytest.raises(RecastError, match=rf"needs \d+ MiB.*limitMiB {limit}.*residentMiB 300") as raised:
            plan(asked, limit)
        assert raised.value.termination.reason == "MemoryTooSmall"
