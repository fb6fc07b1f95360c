"""The replicas behind a foundation lineage's headless Service: their addresses, a channel each, and who is ejected.

The rules are elsewhere and pure: :mod:`recast_server.expert.rendezvous` says who is asked,
:mod:`recast_server.expert.breaker` who is left alone. Addresses are looked up every :data:`LOOKUP_SECONDS` and when a
call finds nobody; a lookup that fails changes nothing, since a foundation does not stop when DNS does.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import time
from collections.abc import Awaitable, Callable, Sequence

import grpc
import grpc.aio

from recast_server.expert import rendezvous
from recast_server.expert.breaker import Breaker, evidence
from recast_server.expert.questions import Questions
from recast_server.proto.foundation_pb2_grpc import FoundationStub
from recast_server.runtime.metrics import FoundationCalls

LOOKUP_SECONDS = 2.0
SOONEST_SECONDS = 0.2
"""Between two lookups, however many calls fail."""
REPLY_BYTES = 64 * 1024 * 1024
SMOOTHING = 0.1
"""How much one answer counts in what answers take of late."""
_CLOSING_SECONDS = 60.0
_OPTIONS = [
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", REPLY_BYTES),
    # A foundation's pod that comes back is used again within a second or two, not within two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # While it owes an answer: a connection to a node that is gone must not be waited on as long as TCP would.
    ("grpc.keepalive_time_ms", 2000),
    ("grpc.keepalive_timeout_ms", 1000),
    ("grpc.enable_http_proxy", 0),
]
_log = logging.getLogger("recast.replicas")

Resolve = Callable[[], Awaitable[Sequence[str]]]
"""Looks up the addresses, each ``host:port``. Raises OSError."""


def resolver(address: str) -> Resolve:
    """Of all addresses behind ``host:port``, by the system's resolver, in a thread of the event loop's own."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")

    async def resolve() -> list[str]:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return [
            f"[{entry[4][0]}]:{port}" if entry[0] == socket.AF_INET6 else f"{entry[4][0]}:{port}" for entry in found
        ]

    return resolve


class Replica:
    """One server of the foundation."""

    def __init__(self, address: str) -> None:
        self.address, self.seed = address, rendezvous.seed(address)
        family = "ipv6" if address.startswith("[") else "ipv4"
        self.channel = grpc.aio.insecure_channel(f"{family}:{address}", options=_OPTIONS)
        self.stub = FoundationStub(self.channel)
        self.questions = Questions(self.stub)
        self.in_flight = 0
        self.usual_seconds = 0.0
        """What its answers take of late; 0 before the first."""
        self.breaker = Breaker()

    def connected(self) -> bool:
        """Whether its connection stands; one that does not is begun."""
        return self.channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY


class Replicas:
    """Those that are known. It looks them up from the first use on; :meth:`close` ends that."""

    def __init__(self, resolve: Resolve, probe: Callable[[Replica], Awaitable[bool]], calls: FoundationCalls) -> None:
        """``probe`` says whether a replica answers and serves the pair's version; it ends by itself."""
        self._resolve, self._probe, self._calls = resolve, probe, calls
        self._known: dict[str, Replica] = {}
        self._usable: list[Replica] = []
        self._looked, self._found, self._look_now = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self._returning: dict[Replica, asyncio.Task[None]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def looked_up(self) -> None:
        """Returns when the addresses have been looked up once, with or without success."""
        self._start()
        await self._looked.wait()

    async def known(self) -> list[Replica]:
        """All of them, ejected ones too, as soon as there is one."""
        self._start()
        await self._found.wait()
        return list(self._known.values())

    def choose(self, user: int) -> Replica | None:
        """The one to ask for this user; None where all are ejected, or none is known.

        One that lost its connection is passed over while another has one: it said that it goes, or it is gone.
        """
        left = self._usable
        first = None
        while left:
            place = rendezvous.choose(user, [one.seed for one in left], [one.in_flight for one in left])
            if left[place].connected():
                return left[place]
            first = first or left[place]
            left = left[:place] + left[place + 1 :]
        return first

    def ended(self, replica: Replica, code: str, begun: float, took: float, given: float) -> None:
        """A call to it has ended with this code. It began at a time of :func:`time.monotonic`, took so many seconds and
        was given so many.
        """
        said = evidence(code, took, given, replica.usual_seconds)
        if code == "OK":
            replica.usual_seconds += (SMOOTHING if replica.usual_seconds else 1.0) * (took - replica.usual_seconds)
        elif code == "UNAVAILABLE":
            self._look_now.set()
        before, replica.breaker = (
            replica.breaker,
            replica.breaker.after_call(said, begun, begun + took, random.random()),
        )
        if before.closed and not replica.breaker.closed and self._known.get(replica.address) is replica:
            self._calls.ejected()
            self._returning[replica] = asyncio.create_task(self._bring_back(replica))
            self._changed()
            self._log("ejected", replica, code=code)

    async def close(self) -> None:
        """Ends what runs, and all connections."""
        tasks = [*self._returning.values(), *self._closing, *([self._watch] if self._watch else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(replica.channel.close() for replica in self._known.values()))

    def _start(self) -> None:
        if self._watch is None:
            self._watch = asyncio.create_task(self._look_up_for_ever())

    async def _look_up_for_ever(self) -> None:
        failing = False
        while True:
            self._look_now.clear()
            try:
                async with asyncio.timeout(LOOKUP_SECONDS):
                    addresses = await self._resolve()
            except (OSError, UnicodeError) as error:  # a timeout is an OSError
                if not failing:
                    fields = {"reason": f"{type(error).__name__}: {error}", "known": len(self._known)}
                    _log.warning("the foundation's addresses cannot be looked up", extra={"fields": fields})
                failing = True
            else:
                failing = False
                self._update(addresses)
            self._looked.set()
            for replica in self._usable:
                replica.connected()  # so that no request waits for a connection
            await asyncio.sleep(SOONEST_SECONDS)
            try:
                async with asyncio.timeout(LOOKUP_SECONDS - SOONEST_SECONDS):
                    await self._look_now.wait()
            except TimeoutError:
                pass

    def _update(self, addresses: Sequence[str]) -> None:
        gone, come = set(self._known).difference(addresses), set(addresses).difference(self._known)
        if not addresses or not (gone or come):
            return
        for address in gone:
            replica = self._known.pop(address)
            if (returning := self._returning.pop(replica, None)) is not None:
                returning.cancel()
            closing = asyncio.create_task(replica.channel.close(_CLOSING_SECONDS))  # calls in flight are answered
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        for address in come:
            self._known[address] = Replica(address)
        self._changed()
        self._found.set()

    def _changed(self) -> None:
        self._usable = [replica for replica in self._known.values() if replica.breaker.closed]
        self._calls.replicas(len(self._usable), len(self._known) - len(self._usable))

    async def _bring_back(self, replica: Replica) -> None:
        begun = time.monotonic()
        while (due := replica.breaker.probe_at) is not None:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            right = await self._probe(replica)
            replica.breaker = replica.breaker.after_probe(right, time.monotonic(), random.random())
        del self._returning[replica]
        self._changed()
        self._log("back", replica, seconds=round(time.monotonic() - begun, 3))

    def _log(self, what: str, replica: Replica, **fields: object) -> None:
        level = logging.WARNING if what == "ejected" else logging.INFO
        found = {"replica": replica.address, "usable": len(self._usable), "known": len(self._known), **fields}
        _log.log(level, f"a foundation's replica is {what}", extra={"fields": found})
