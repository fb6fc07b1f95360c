"""What a pod says when it dies: any exception becomes the termination message of :mod:`recast_api.run`.

``retryable`` answers one question: may the same run, tried again from its checkpoint, succeed? A lost peer or a lack of
memory or space may pass; a corrupt segment will not.

Ranks of one pod share one termination log. A rank whose peer died knows less than the peer, so a symptom never
overwrites a message that is already there; a cause always does.
"""

from __future__ import annotations

import errno
import sys
import traceback
from pathlib import Path

from recast_api.run import RecastError, TerminationMessage

PEER_LOST = "PeerLost"

_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "std::bad_alloc")
_PEER = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "broken pipe", "connection refused")
_SPACE = (errno.ENOSPC, errno.EDQUOT)


def describe(error: BaseException) -> TerminationMessage:
    """The termination message for what ended the process."""
    if isinstance(error, RecastError):
        return error.termination
    text = f"{type(error).__name__}: {error}"
    low = text.lower()
    if isinstance(error, MemoryError) or any(word in low for word in _MEMORY):
        return _message("OutOfMemory", f"{text}; raise the memory limit in spec.training.resources", retryable=True)
    if isinstance(error, OSError) and error.errno in _SPACE:
        return _message("StorageFull", f"{text}; grow the models volume or delete old versions", retryable=True)
    if isinstance(error, (RuntimeError, OSError)) and any(word in low for word in _PEER):
        return _message(PEER_LOST, f"another process of this run went away: {text}", retryable=True)
    if isinstance(error, OSError):
        return _message("StorageFailed", text, retryable=True)
    return _message("TrainerFailed", f"{text} (see the pod's log)", retryable=False)


def report(error: BaseException, log: Path) -> TerminationMessage:
    """Write the message to ``log``, where the kubelet reads it, and to standard error with the trace; return it.

    The kubelet makes the log before it starts the container. Where there is none, as outside a pod, none is made.
    """
    message = describe(error)
    if not isinstance(error, RecastError):
        traceback.print_exception(error)
    print(f"FAILED {message.reason}: {message.message}", file=sys.stderr, flush=True)
    try:
        if log.exists() and (message.reason != PEER_LOST or log.stat().st_size == 0):
            log.write_text(message.encode())
    except OSError as unwritable:
        print(f"cannot write {log}: {unwritable}", file=sys.stderr, flush=True)
    return message


def _message(reason: str, text: str, *, retryable: bool) -> TerminationMessage:
    return TerminationMessage(reason=reason, retryable=retryable, message=text[:1024])
