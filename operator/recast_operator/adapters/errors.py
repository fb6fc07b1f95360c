"""What can go wrong outside the process, sorted by what the operator does about it.

==================  ================================================================================================
:class:`Conflict`   somebody wrote first (409): observe again at once
:class:`Transient`  the apiserver or the network: try again with back-off
:class:`Invalid`    the request itself is wrong (400, 422) and will be again: say it, and try again with back-off
:class:`Blocked`    something a person must move: a name that is taken, a missing permission
:class:`Expired`    a listing took longer than the apiserver remembers its beginning (410): begin it again
==================  ================================================================================================
"""

from __future__ import annotations


class OutsideError(Exception):
    """An adapter could not do what it was asked for."""

    kind = "Outside"

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Transient(OutsideError):  # noqa: N818 (the taxonomy's word)
    """Might work the next time. ``unknown_outcome``: a write may have happened although no answer came."""

    kind = "Transient"

    def __init__(self, message: str, *, status: int = 0, unknown_outcome: bool = False) -> None:
        super().__init__(message, status=status)
        self.unknown_outcome = unknown_outcome


class Conflict(OutsideError):  # noqa: N818
    """Somebody else wrote first: what was observed is no longer so."""

    kind = "Conflict"


class NotFound(OutsideError):  # noqa: N818
    """There is no such object."""

    kind = "NotFound"


class Invalid(OutsideError):  # noqa: N818
    """The apiserver refuses the object as it is."""

    kind = "Invalid"


class Blocked(OutsideError):  # noqa: N818
    """Only a person can move this on."""

    kind = "Blocked"


class Expired(OutsideError):  # noqa: N818
    """The apiserver has forgotten the state that a listing or a watch began with."""

    kind = "Expired"
