"""From what is to what should be done: the table of contents of all decisions.

``plan_foundation`` and ``plan_expert`` are pure. They compute the whole status from scratch out of the snapshot and
derive every effect from that *new* status, so that a crash between two writes loses nothing: the next pass derives
the same effects again. The controller executes a plan in the order of :class:`Plan`'s fields and stops at the first
conflict; a status write that fails therefore leaves the cluster as it was.

Neighbours: ``snapshot`` is the input; ``staleness``, ``training``, ``gates``, ``fleet``, ``rollout``, ``analysis``
decide; ``children`` renders; ``status`` and ``conditions`` say it.
"""

from __future__ import annotations

from recast_operator.planning.expert import plan_expert
from recast_operator.planning.foundation import plan_foundation
from recast_operator.planning.outcome import Deletion, Event, Plan, Scale, SubmitRun, VersionWrite

__all__ = ["Deletion", "Event", "Plan", "Scale", "SubmitRun", "VersionWrite", "plan_expert", "plan_foundation"]
