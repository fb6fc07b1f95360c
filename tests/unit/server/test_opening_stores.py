"""Which store of histories a configuration opens."""

from __future__ import annotations

from pathlib import Path

from recast_api.server import ServedHistories, ServedRedis, ServedVolume
from recast_server.histories.embedded import EmbeddedStore
from recast_server.histories.opening import open_store
from recast_server.histories.redis_store import RedisStore


async def test_a_configuration_opens_the_store_that_it_names_and_no_other(tmp_path: Path) -> None:
    redis = ServedRedis(host="127.0.0.1", port=1)
    volume = ServedVolume(path=str(tmp_path / "store"), size_bytes=1 << 20)
    opened = [
        open_store(ServedHistories(store=store, redis=redis, embedded=volume), None)
        for store in ("Artifact", "Redis", "Embedded")
    ]
    assert [type(store) for store in opened] == [type(None), RedisStore, EmbeddedStore]
    for store in opened:
        if store is not None:
            await store.close()
