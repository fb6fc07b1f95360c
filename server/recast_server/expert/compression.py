"""gzip on both ways. What comes in is inflated no further than a body may be long: a small one can hold gigabytes."""

from __future__ import annotations

import gzip
import re
import zlib

from recast_server.expert.schema import BODY_BYTES, RefusedError

ENOUGH_BYTES = 1024
"""Shorter answers fit into a packet or two as they are."""
_LEVEL = 1
"""Of zlib: the event loop waits for it."""
_GZIP = 16 + zlib.MAX_WBITS
_UNWANTED = re.compile(r";\s*q\s*=\s*0(\.0{0,3})?\s*$")


def inflated(body: bytes, encoding: str | None) -> bytes:
    """The body of a request as its client had it. Raises :class:`RefusedError`."""
    if encoding is None or encoding.strip().lower() in ("", "identity"):
        return body
    if encoding.strip().lower() not in ("gzip", "x-gzip"):
        raise RefusedError(
            415,
            "UnsupportedEncoding",
            f"content-encoding {encoding!r:.80} is not understood: send gzip, or the body as it is",
            headers={"accept-encoding": "gzip"},
        )
    stream = zlib.decompressobj(_GZIP)
    try:
        whole = stream.decompress(body, BODY_BYTES + 1)
    except zlib.error as error:
        raise RefusedError(400, "InvalidEncoding", f"the body is not gzip: {error}") from None
    if len(whole) > BODY_BYTES:
        raise RefusedError(413, "BodyTooLarge", f"the body has more than {BODY_BYTES} bytes when it is inflated")
    if not stream.eof or stream.unused_data:
        raise RefusedError(400, "InvalidEncoding", "the body is not one whole gzip stream")
    return whole


def deflated(body: bytes, accepted: str | None) -> bytes | None:
    """The body of an answer in gzip; None where its client wants none, or none is saved."""
    if len(body) < ENOUGH_BYTES or not _wanted(accepted or ""):
        return None
    short = gzip.compress(body, _LEVEL, mtime=0)
    return short if len(short) < len(body) else None


def _wanted(accepted: str) -> bool:
    choices = [choice.strip() for choice in accepted.lower().split(",")]
    return any(choice.split(";")[0].strip() == "gzip" and not _UNWANTED.search(choice) for choice in choices)
