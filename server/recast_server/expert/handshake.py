"""Is the foundation behind our Service the one we were trained with? Asked once, before the first request.

A wrong foundation ends the process: its embeddings would be numbers without meaning. One that cannot be reached does
not: the expert starts degraded and answers from the absent vector until it can.
"""

from __future__ import annotations

import asyncio
import logging
import time

from recast_api.pair import is_pair
from recast_api.resources.version import FoundationPin
from recast_api.run import RecastError
from recast_server.expert.questions import TaeUnavailableError
from recast_server.expert.tae_client import ServedFoundation, TaeClient, mismatch

PATIENCE_SECONDS = 30.0
_ATTEMPT_SECONDS = 2.0
_PAUSE_SECONDS = 0.25
_log = logging.getLogger("recast.handshake")


async def handshake(
    client: TaeClient, pin: FoundationPin, tae_dim: int, patience_seconds: float | None = None
) -> ServedFoundation | None:
    """The right foundation, or None where none answered within the patience (:data:`PATIENCE_SECONDS`).

    Raises :class:`RecastError` with reason ``PairMismatch`` that names both versions.
    """
    patience_seconds = PATIENCE_SECONDS if patience_seconds is None else patience_seconds
    begin, reason = time.monotonic(), ""
    while (left := patience_seconds - (time.monotonic() - begin)) > 0:
        try:
            served = await client.describe(min(_ATTEMPT_SECONDS, left))
        except TaeUnavailableError as error:
            if not reason:
                fields = {"reason": f"{error.code}: {error}", "patienceSeconds": patience_seconds}
                _log.warning("waiting for the foundation before taking requests", extra={"fields": fields})
            reason = f"{error.code}: {error}"
            await asyncio.sleep(min(_PAUSE_SECONDS, left))
            continue
        if not is_pair(served, pin):
            raise RecastError("PairMismatch", mismatch(pin, served))
        if served.tae_dim != tae_dim:
            raise RecastError(
                "PairMismatch",
                f"{served.name} v{served.version} serves embeddings of {served.tae_dim} numbers, this expert reads"
                f" {tae_dim}: roll out an expert trained with v{served.version}",
            )
        return served
    _log.warning(
        "the foundation did not answer; starting without its embeddings",
        extra={"fields": {"seconds": patience_seconds, "reason": reason}},
    )
    return None
