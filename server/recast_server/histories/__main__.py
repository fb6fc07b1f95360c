"""``python -m recast_server.histories``: what is done with a store of histories beside serving from it.

``export`` writes them as a data set that the trainer reads; ``seed`` takes in those that came with a version, of users
whom the store does not know yet.

``--redis HOST:PORT`` names a server, whose password is in ``RECAST_HISTORIES_PASSWORD``; ``--folder`` names an embedded
store, which is exported in its own pod, or when that has stopped: LMDB is for one host.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from recast_api import names
from recast_api.run import RecastError
from recast_server.histories.embedded import EmbeddedStore
from recast_server.histories.export import Description, export
from recast_server.histories.redis_store import RedisAddress, RedisStore
from recast_server.histories.seeding import Seeded, histories_of, seed
from recast_server.histories.store import HistoryStore, StoreError

LARGEST_BYTES = 1 << 40
"""Of a file that is opened to read it: no more than address space."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    options = _parser().parse_args(argv)
    try:
        print(asyncio.run(options.work(options)))
    except (RecastError, StoreError, OSError, ValueError) as error:
        print(f"{options.command}: {error}", file=sys.stderr)
        return 1
    return 0


async def _export(options: argparse.Namespace) -> str:
    store = _store(options)
    try:
        done = await export(store, options.out, _description(options.like))
    finally:
        await store.close()
    return (
        f"{done.events:,} events of {done.users:,} users in {options.out}; {done.left_out:,} of other surfaces left out"
    )


async def _seed(options: argparse.Namespace) -> str:
    def told(so_far: Seeded) -> None:
        print(f"\r{so_far.taken + so_far.known:,} users", end="", file=sys.stderr, flush=True)

    source, store = histories_of(options.version), _store(options)
    try:
        done = await seed(store, source, told if sys.stderr.isatty() else lambda _: None)
    finally:
        await store.close()
    return f"{done.taken:,} users taken in; {done.known:,} were in the store and are as they were"


def _store(options: argparse.Namespace) -> HistoryStore:
    if options.folder is not None:
        if options.command == "export" and not (options.folder / "data.mdb").exists():
            raise RecastError("HistoriesNotFound", f"{options.folder} holds no histories: there is no data.mdb in it")
        if not options.folder.is_dir():
            raise RecastError("HistoriesNotFound", f"{options.folder} is no folder: name the store's volume")
        return EmbeddedStore(options.folder, LARGEST_BYTES)
    host, _, port = options.redis.rpartition(":")
    if not host or not port.isdigit():
        raise RecastError(
            "HistoriesNotFound", f"--redis {options.redis}: give HOST:PORT, such as redis.models.svc:6379"
        )
    password = os.environ.get(names.HISTORIES_PASSWORD_ENV)
    address = RedisAddress(host, int(port), options.username, password, options.tls, options.authority)
    return RedisStore(address, prefix=options.prefix, timeout_seconds=30.0)


def _description(path: Path) -> Description:
    """Surfaces, tasks and segments as those of another data set."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecastError("HistoriesNotFound", f"--like {path} is no dataset.json: {error}") from error
    surfaces = {each["name"]: tuple(each["tasks"]) for each in known["surfaces"]}
    return Description(known["name"], surfaces, known.get("segmentSeconds", 3600))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recast_server.histories")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    which = argparse.ArgumentParser(add_help=False)
    where = which.add_mutually_exclusive_group(required=True)
    where.add_argument("--redis", metavar="HOST:PORT", help="a Redis or Valkey")
    where.add_argument("--folder", type=Path, help="folder of an embedded store")
    which.add_argument("--username", help="user of the Redis")
    which.add_argument("--tls", action="store_true", help="encrypt the connection to the Redis")
    which.add_argument("--authority", help="PEM file of the authority that vouches for it")
    which.add_argument("--prefix", default="recast", help="what its keys begin with (default: %(default)s)")
    seeding = commands.add_parser(
        "seed", parents=[which], help="take in the histories of a version", description=__doc__
    )
    seeding.set_defaults(work=_seed)
    seeding.add_argument("--version", type=Path, required=True, help="a version's folder: the foundation's knows most")
    exporting = commands.add_parser(
        "export", parents=[which], help="write a store's histories as a data set", description=__doc__
    )
    exporting.set_defaults(work=_export)
    exporting.add_argument(
        "--like", type=Path, required=True, help="a dataset.json: surfaces, tasks and segments are to be as there"
    )
    exporting.add_argument("--out", type=Path, required=True, help="folder to write; what was cut off goes on")
    return parser


if __name__ == "__main__":
    sys.exit(main())
