"""The shared store against a real Redis: the suite that every store passes, and what such a server can do to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from random import Random

import pytest
import redis.asyncio as client
from redis_process import RedisProcess

from recast_server.histories.redis_store import RedisAddress, RedisStore
from recast_server.histories.store import Append, CorruptError, DownError, HistoryStore, Read, StoreError
from recast_server.histories.user_history import Bounds
from tests.histories_agree import fill, require_each_request_sees_the_same, require_the_end_is_the_same, the_stream
from tests.history_stores import BOUNDS, NOW, USER, WritingSuite, events_of, first_refused, of, told

ONE = [(1, 0, 1, 9, 0)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    process = RedisProcess(tmp_path_factory.mktemp("redis")).start()
    yield process
    process.kill()


@pytest.fixture
async def raw(server: RedisProcess) -> AsyncIterator[client.Redis]:
    """The server itself, emptied."""
    connection = client.Redis(unix_socket_path=server.address.host)
    await connection.flushall()
    yield connection
    await connection.aclose()


class TestRedis(WritingSuite):
    @pytest.fixture
    async def store(self, server: RedisProcess, raw: client.Redis) -> AsyncIterator[HistoryStore]:
        store = RedisStore(server.address, BOUNDS)
        yield store
        await store.close()


async def test_two_replicas_that_append_at_once_lose_nothing(server: RedisProcess, raw: client.Redis) -> None:
    stores = [RedisStore(server.address, BOUNDS) for _ in range(3)]
    appends = [Append(USER, events_of([(n, n % 3, 1, n, 0)]), f"k{n}") for n in range(9)]
    await asyncio.gather(*(store.append(each, NOW) for store in stores for each in appends))
    history = await of(stores[0])
    assert (history.sequence, sorted(history.events.item.tolist())) == (9, list(range(9)))
    for store in stores:
        await store.close()


async def test_a_hundred_appends_of_one_user_at_once_are_all_made(server: RedisProcess, raw: client.Redis) -> None:
    store = RedisStore(server.address, BOUNDS)
    appends = [Append(USER, events_of([(n % 10, n % 3, 1, 1, 0)]), f"k{n}") for n in range(100)]
    assert {made.sequence for made in await asyncio.gather(*(store.append(each, NOW) for each in appends))} == set(
        range(1, 101)
    )
    await store.close()


@pytest.mark.parametrize("found", ["zzz", "1e15", "NaN", "inf", "9" * 400, str(NOW + 3600_000)])
async def test_a_newest_time_that_cannot_be_is_mended_by_the_next_append(
    server: RedisProcess, raw: client.Redis, found: str
) -> None:
    store = RedisStore(server.address, BOUNDS)
    await raw.set("recast:history-until", found)
    assert (await store.append(Append(USER, events_of(ONE), "k"), NOW)).sequence == 1
    read = await store.read(USER)
    assert isinstance(read, Read)
    assert read.until_ms <= NOW
    await store.close()


async def test_an_append_that_fails_over_the_newest_time_is_not_written(
    server: RedisProcess, raw: client.Redis
) -> None:
    store = RedisStore(server.address, BOUNDS)
    await raw.lpush("recast:history-until", "a list")
    with pytest.raises(DownError):
        await store.append(Append(USER, events_of(ONE), "k"), NOW)
    assert await raw.keys("recast:history:*") == []
    await store.close()


async def test_keys_of_others_that_begin_alike_are_no_users(server: RedisProcess, raw: client.Redis) -> None:
    store = RedisStore(server.address, BOUNDS)
    await store.append(Append(USER, events_of(ONE), "k"), NOW)
    await raw.set("recast:history:theirs, and long", "x")
    assert [user async for user in store.users()] == [USER]
    await store.close()


@pytest.mark.parametrize("seed", range(8))
async def test_a_stream_with_late_labels_reads_as_in_the_trainer(
    server: RedisProcess, raw: client.Redis, seed: int
) -> None:
    random = Random(seed)
    delays = [0, 1, 7, 100, 400]
    events = [
        (random.randint(1, 3), random.randint(0, 1), random.randint(100, 139), random.randint(0, 300), 0)
        for _ in range(40)
    ]
    labels = [[(random.choice([1, 1, 0, -1]), random.choice(delays)) for _ in range(3)] for _ in range(40)]
    made, limit, surface = the_stream(events, labels), random.randint(4, 12), random.choice([None, 0, 1])
    for prefix, bounds in (("all", Bounds()), ("window", Bounds(limit, limit))):
        store = RedisStore(server.address, bounds, prefix=prefix)
        await fill(store, made, True, random, late=5)
        if prefix == "all":
            await require_each_request_sees_the_same(store, made, limit, surface, True)
        await require_the_end_is_the_same(store, made, limit, surface, True)
        await store.close()


async def test_users_who_do_nothing_for_the_time_to_live_are_forgotten(server: RedisProcess, raw: client.Redis) -> None:
    store = RedisStore(server.address, BOUNDS, ttl_seconds=900)
    await store.append(Append(USER, events_of(ONE), "k"), NOW)
    (key,) = await raw.keys("recast:history:*")
    assert 890 < await raw.ttl(key) <= 900
    assert await raw.ttl("recast:history-until") == -1
    await store.close()


async def test_prefixes_are_apart_whatever_they_are(server: RedisProcess, raw: client.Redis) -> None:
    stores = [RedisStore(server.address, BOUNDS, prefix=prefix) for prefix in ("a", "*", "a[b]")]
    for user, store in enumerate(stores):
        await store.append(Append(user, events_of(ONE), "k"), NOW)
    for user, store in enumerate(stores):
        assert {each async for each in store.users()} == {user}
        await store.close()


async def test_a_record_that_was_cut_or_swapped_is_never_believed(server: RedisProcess, raw: client.Redis) -> None:
    store = RedisStore(server.address, BOUNDS)
    for user in (1, 2):
        await store.append(Append(user, events_of(ONE), "k"), NOW)
    first, second = sorted(await raw.keys("recast:history:*"))
    record = await raw.get(first)
    await raw.set(second, record)
    with pytest.raises(CorruptError, match="user 2 is that of user 1"):
        await store.read(2)
    for broken in (record[:-1], b"", b"nonsense", record[:40] + b"\x07" + record[41:]):
        await raw.set(first, broken)
        with pytest.raises(CorruptError):
            await store.read(1)
        with pytest.raises(CorruptError):
            await store.append(Append(1, events_of(ONE), "other"), NOW)
    await raw.delete(first)
    await raw.set("recast:history-until", "soon")
    with pytest.raises(CorruptError):
        await store.read(1)
    await store.close()


async def test_a_server_without_memory_refuses_and_loses_nothing(tmp_path: Path) -> None:
    process = RedisProcess(tmp_path, ("--maxmemory", "2mb", "--maxmemory-policy", "noeviction")).start()
    store = RedisStore(process.address, BOUNDS)
    full = await first_refused(store)
    assert full > 10
    for user in range(full):
        assert (await of(store, user)).total == 12
    await store.close()
    process.kill()


async def test_a_server_that_died_is_down_and_one_that_is_back_has_what_it_wrote(tmp_path: Path) -> None:
    options = ("--appendonly", "yes", "--appendfsync", "always")
    process = RedisProcess(tmp_path, options, tcp=True).start()
    store = RedisStore(process.address, BOUNDS)
    events = events_of([(1, 0, 1, 9, 0), (2, 1, 3, 8, 4)])
    await store.append(Append(USER, events, "k"), NOW)
    process.kill()
    with pytest.raises(DownError):
        await store.read(USER)
    with pytest.raises(DownError):
        await store.append(Append(USER, events, "other"), NOW)
    process.start()
    assert told((await of(store)).events) == told(events)
    assert (await store.append(Append(USER, events, "k"), NOW)).repeated
    await store.close()
    process.kill()


async def test_an_answer_that_came_too_late_is_never_given_to_another_reader(tmp_path: Path) -> None:
    process = RedisProcess(tmp_path).start()
    store = RedisStore(process.address, BOUNDS, connections=1)
    for user in (1, 2):
        await store.append(Append(user, events_of([(user, 0, 1, 9, 0)]), "k"), NOW)
    process.freeze()
    for _ in range(5):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await store.read(1)
    process.thaw()
    for user in (2, 1, 2):
        found = await store.read(user)
        assert isinstance(found, Read)
        assert found.history.events.item.tolist() == [user]
    await store.close()
    process.kill()


async def test_a_password_is_asked_for_and_never_shown(tmp_path: Path) -> None:
    process = RedisProcess(tmp_path, ("--requirepass", "secret-word")).start()
    right = RedisAddress(process.address.host, password="secret-word")
    wrong = RedisAddress(process.address.host, password="another-word")
    assert "secret-word" not in repr(right)
    store = RedisStore(right, BOUNDS)
    await store.append(Append(USER, events_of(ONE), "k"), NOW)
    await store.close()
    for address in (wrong, process.address):
        store = RedisStore(address, BOUNDS)
        with pytest.raises(StoreError) as refused:
            await store.read(USER)
        assert "word" not in str(refused.value).replace("WRONGPASS", "").replace("password", "")
        await store.close()
    process.kill()


async def test_its_user_needs_no_more_than_it_is_said_to_need(tmp_path: Path) -> None:
    """As docs/operations.md says."""
    rules = "on >pw ~recast:* &none -@all +mget +get +getrange +set +expire +scan +eval +evalsha +script|load"
    process = RedisProcess(tmp_path, ("--user", "recast", *rules.split())).start()
    store = RedisStore(RedisAddress(process.address.host, username="recast", password="pw"), BOUNDS, ttl_seconds=9)
    await store.append(Append(USER, events_of(ONE), "k"), NOW)
    assert (await of(store)).total == 1
    assert {user async for user in store.users()} == {USER}
    await store.close()
    process.kill()
