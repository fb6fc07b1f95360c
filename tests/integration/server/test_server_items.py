"""Real servers and a file of new items: both know them without a restart, and a bad file takes nothing from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from server_processes import Process, until
from server_world import CONTENT, World

from recast_api.server import ServedItems

CANDIDATES = [1000, 5, 6, 1007]


def write(path: Path, *ids: int) -> None:
    rng = np.random.default_rng(4)
    content = pa.array(rng.normal(size=(len(ids), CONTENT)).tolist(), pa.list_(pa.float32()))
    beside = path.with_name(".items.parquet")
    pq.write_table(pa.table({"item_id": pa.array(ids, pa.int64()), "content": content}), beside)
    beside.rename(path)


def rank(expert: Process) -> Any:
    answer = httpx.post(f"{expert.url}/v1/rank", json={"user": 3, "candidates": CANDIDATES})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["tae"] == "fresh"
    return body["unknownItems"], {each["item"]: each["score"] for each in body["items"]}


def test_new_items_are_known_by_both_servers_without_a_restart(world: World, tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    items = ServedItems(path=str(path), every_seconds=1)
    config = world.foundation_config(world.foundation).model_copy(update={"items": items})
    foundation = world.start(config).wait_serving()
    expert = world.start(world.expert_config(foundation.port, items=items)).wait_serving()
    unknown, before = rank(expert)
    assert (unknown, before[5]) == ([5, 6], before[6])

    write(path, 5, 6, 1000)
    for server in (foundation, expert):
        until(lambda server=server: server.metric("recast_items_new") == 2)
        assert server.metric("recast_items_ignored") == 1
    unknown, after = rank(expert)
    assert unknown == []
    assert len({after[5], after[6], before[5]}) == 3
    assert {item: after[item] for item in (1000, 1007)} == {item: before[item] for item in (1000, 1007)}

    path.write_bytes(path.read_bytes()[:100])
    for server in (foundation, expert):
        until(lambda server=server: server.metric("recast_items_reads_total", result="refused") == 1)
    assert rank(expert) == (unknown, after)
