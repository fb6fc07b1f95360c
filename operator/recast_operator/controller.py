"""One pass over one model: observe, plan, execute.

The plan is a value; here it is carried out, in the one order that survives a crash between any two writes: a look at
the names that are to be taken, finalizers and verdicts, then the status (bound to the snapshot: it fails when somebody
wrote first, and then nothing has happened), then children, scales, the training run and deletions, which all follow
from that status and which the next pass would derive from it again. Events are handed over with the write they tell of.

Errors by kind: a :class:`Conflict` or :class:`Transient` ends the pass and is tried again with back-off. What a person
must act on is said in the condition ``Stalled`` too, with a reason of ours: ``InvalidRequest`` and ``BlockedRequest``
where the apiserver or a taken name refuses a write, ``InternalError`` where planning itself failed. It is taken back
by the first pass that gets through.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Generic, Protocol, TypeVar

from recast_api.resources import Condition, ExpertModelStatus, FoundationModelStatus
from recast_operator.adapters.errors import Blocked, Invalid, NotFound, OutsideError, Transient
from recast_operator.adapters.kube import BY_KIND, VERSIONS
from recast_operator.events import EventQueue
from recast_operator.keys import Key
from recast_operator.observe import Observer, Snapshot
from recast_operator.planning.clock import earliest, stamp
from recast_operator.planning.expert import plan_expert
from recast_operator.planning.foundation import plan_foundation
from recast_operator.planning.plan import Event, Plan
from recast_operator.planning.rollout import analysis
from recast_operator.planning.rollout.questions import Answer, Question
from recast_operator.planning.snapshot import ObservedExpert, ObservedFoundation
from recast_operator.planning.status import deferral
from recast_operator.planning.status.conditions import find
from recast_operator.store import Address
from recast_operator.writes import Outside, Writer

logger = logging.getLogger(__name__)

T = TypeVar("T")
StatusT = TypeVar("StatusT", FoundationModelStatus, ExpertModelStatus)

STALLED = "Stalled"
INTERNAL_ERROR = "InternalError"
OUR_REASONS = ("InvalidRequest", "BlockedRequest", INTERNAL_ERROR)
"""Reasons of ``Stalled`` that are given here; others are planning's."""
MESSAGE_LIMIT = 1024


Untold = dict[Key, tuple[FoundationModelStatus | ExpertModelStatus, tuple[Event, ...]]]
"""By model, a status whose write had no answer, and the events of it."""


Away = Callable[[], AbstractAsyncContextManager[None]]


class Answers(Protocol):
    """Answers planning's questions; see :class:`recast_operator.adapters.prometheus.Prometheus`."""

    async def answers(self, questions: tuple[Question, ...], now: datetime) -> Mapping[Question, Answer]:
        """The answers at ``now``, one to each question."""
        ...


class InternalError(OutsideError):
    """Planning failed on what it observed: a mistake of this operator, on one model."""

    kind = INTERNAL_ERROR


class Controller:
    """Carries out plans. ``clock`` gives aware UTC instants."""

    def __init__(
        self,
        observer: Observer,
        outside: Outside,
        prometheus: Answers,
        events: EventQueue,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._observer = observer
        self._outside = outside
        self._prometheus = prometheus
        self._events = events
        self._clock = clock
        self._deferred_since: dict[Key, datetime] = {}
        self._untold: Untold = {}

    async def reconcile(self, key: Key, away: Away = nullcontext) -> float | None:
        """One pass. Seconds until time alone may change the plan; None: until an event or the resync.

        ``away`` is open while it waits for anybody else than the apiserver.
        Raises :class:`OutsideError` where the pass could not be finished.
        """
        await self._settle(key)
        if key.kind == "FoundationModel":
            foundation = self._observer.foundation(key)
            if foundation is None:
                self._deferred_since.pop(key, None)
                return None
            return await self._foundation(key, foundation)
        expert = self._observer.expert(key)
        if expert is None:
            self._deferred_since.pop(key, None)
            return None
        return await self._expert(key, expert, away)

    async def _foundation(self, key: Key, snapshot: Snapshot[ObservedFoundation]) -> float | None:
        observed, now = snapshot.observed, self._clock()
        run = self._begin(key, observed.model.status, snapshot, now)
        plan = await run.plan(lambda: plan_foundation(observed, now))
        if plan.confirm:
            absent = await self._absent(key.namespace, plan.confirm)
            again = self._observer.foundation(key)
            if again is None:
                return None
            confirmed = replace(again.observed, absent_versions=absent)
            run = self._begin(key, confirmed.model.status, again, now)
            plan = await run.plan(lambda: plan_foundation(confirmed, now))
            observed = confirmed
        return await run.execute(self._defer_counts(key, observed, plan, now))

    async def _expert(self, key: Key, snapshot: Snapshot[ObservedExpert], away: Away) -> float | None:
        observed, now = snapshot.observed, self._clock()
        run = self._begin(key, observed.model.status, snapshot, now)
        if questions := await run.plan(lambda: analysis.questions(observed, now)):
            async with away():
                answers = await self._prometheus.answers(questions, now)
            again, model = self._observer.expert(key), Address(*key)
            if again is None or again.objects[model].resource_version != snapshot.objects[model].resource_version:
                return 0.0  # it was changed meanwhile, and these may be the wrong questions now
            observed = replace(again.observed, answers=answers)
            run = self._begin(key, observed.model.status, again, now)
        plan = await run.plan(lambda: plan_expert(observed, now))
        if plan.confirm:
            absent = await self._absent(key.namespace, plan.confirm)
            again = self._observer.expert(key)
            if again is None:
                return None
            confirmed = replace(again.observed, answers=observed.answers, absent_versions=absent)
            run = self._begin(key, confirmed.model.status, again, now)
            plan = await run.plan(lambda: plan_expert(confirmed, now))
            observed = confirmed
        plan = self._defer_status(key, observed.model.status, plan, now)
        return await run.execute(plan)

    def _defer_status(
        self, key: Key, before: ExpertModelStatus, plan: Plan[ExpertModelStatus], now: datetime
    ) -> Plan[ExpertModelStatus]:
        """The same plan; where nothing in its status decides, that is written with the next change, or soon."""
        if not deferral.may_wait(before, plan.status):
            self._deferred_since.pop(key, None)
            return plan
        left = self._still_waits(key, now)
        if left is None:
            return plan
        return replace(plan, status=before, requeue_after=earliest(plan.requeue_after, left))

    def _defer_counts(
        self, key: Key, observed: ObservedFoundation, plan: Plan[FoundationModelStatus], now: datetime
    ) -> Plan[FoundationModelStatus]:
        """The same plan; that a version is read by more experts or fewer is written with the next change, or soon."""
        before = {version.metadata.name: version.status for version in observed.versions}
        deciding = tuple(
            write
            for write in plan.versions
            if write.owner or not write.status or not deferral.only_counted(before[write.name], write.status)
        )
        if deciding == plan.versions:
            self._deferred_since.pop(key, None)
            return plan
        left = self._still_waits(key, now)
        if left is None:
            return plan
        return replace(plan, versions=deciding, requeue_after=earliest(plan.requeue_after, left))

    def _still_waits(self, key: Key, now: datetime) -> float | None:
        """For how many seconds a change that may wait goes on waiting; None where it is time to write it."""
        waited = (now - self._deferred_since.setdefault(key, now)).total_seconds()
        if 0 <= waited < deferral.DEFER_SECONDS:
            return deferral.DEFER_SECONDS - waited
        del self._deferred_since[key]
        return None

    async def _absent(self, namespace: str, wanted: tuple[str, ...]) -> frozenset[str]:
        """Read these ModelVersions into the store; the names of those that are not there."""
        absent = set()
        for name in wanted:
            try:
                self._outside.store.put(VERSIONS.kind, await self._outside.kube.get(VERSIONS, namespace, name))
            except NotFound:
                absent.add(name)
        return frozenset(absent)

    def _begin(self, key: Key, status: StatusT, snapshot: Snapshot[Any], now: datetime) -> Pass[StatusT]:
        writer = Writer(key, snapshot.objects, self._outside)
        written, events = self._untold.pop(key, (None, ()))
        if written == status:  # the write whose answer was lost was made after all
            self._events.add(key, writer.uid, events)
        return Pass(status, writer, self._events, self._untold, now)

    async def _settle(self, key: Key) -> None:
        """Read again what a failed write of this model left in doubt. Other models go on meanwhile."""
        for address in self._outside.doubts.of(key):
            try:
                found = await self._outside.kube.get(BY_KIND[address.kind], address.namespace, address.name)
            except NotFound:
                known = self._outside.store.get(*address)
                if known is not None:
                    self._outside.store.remove(*address, known.uid)
            except OutsideError as error:
                self._outside.metrics.doubt_failed(address.kind)
                logger.warning("%s waits until %s can be read, whose last write has no known outcome", key, address)
                raise error
            else:
                self._outside.store.put(address.kind, found)
            self._outside.doubts.settled(key, address)


class Pass(Generic[StatusT]):
    """Carries out one plan, and knows which status stands in the cluster meanwhile."""

    def __init__(self, before: StatusT, writer: Writer, events: EventQueue, untold: Untold, now: datetime) -> None:
        self._status: StatusT = before
        self._writer = writer
        self._events = events
        self._untold = untold
        self._now = now

    async def plan(self, plan: Callable[[], T]) -> T:
        """Make the plan, or a part of it. Raises :class:`InternalError`, said in the status too, where that failed."""
        try:
            return plan()
        except Exception as error:
            logger.exception("%s: planning failed", self._writer.key)
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{where.filename.rpartition('recast_operator/')[2]}:{where.lineno} ({where.name})"
            failed = InternalError(
                f"{type(error).__name__} in {place}: {str(error)[:300]}; nothing was changed. "
                "Correct what it is about, or report it with the operator's log"
            )
            await self._stall(INTERNAL_ERROR, str(failed))
            raise failed from error

    async def execute(self, plan: Plan[StatusT]) -> float | None:
        """Carry the plan out. What a person must act on stands in the status by the time that this raises."""
        try:
            await self._writer.look(plan.apply)
            await self._execute(plan)
        except (Invalid, Blocked) as error:
            await self._stall(f"{error.kind}Request", str(error))
            raise
        return plan.requeue_after

    async def _execute(self, plan: Plan[StatusT]) -> None:
        writer, stalled = self._writer, _ours(self._status)
        if plan.finalizers is not None:
            await writer.finalizers(plan.finalizers)
            if writer.gone:
                return
        for version in plan.versions:
            await writer.version(version)
            self._tell(version.events)
        # Until this pass has got through, what stopped the last one is still so.
        status = _with(plan.status, stalled) if stalled is not None else plan.status
        try:
            wrote = await self._write(status)
        except Transient:
            self._untold[writer.key] = (status, plan.events)
            raise
        if wrote:
            self._tell(plan.events)
        for child in plan.apply:
            await writer.apply(child)
            self._tell(child.events)
        for scale in plan.scales:
            await writer.scale(scale)
            self._tell(scale.events)
        if plan.submit is not None:
            await writer.submit(plan.submit)
        for deletion in plan.deletions:
            await writer.delete(deletion)
        await self._write(plan.status)

    async def _write(self, status: StatusT) -> bool:
        """Whether there was anything to write."""
        if status == self._status:
            return False
        await self._writer.status(status)
        self._status = status
        return True

    async def _stall(self, reason: str, message: str) -> None:
        """Say on top of the status as it stands that nothing goes on; all else in it stays true."""
        old, message = find(self._status.conditions, STALLED), message[:MESSAGE_LIMIT]
        since = old.last_transition_time if old is not None and old.status == "True" else stamp(self._now)
        condition = Condition(
            type=STALLED,
            status="True",
            reason=reason,
            message=message,
            last_transition_time=since,
            observed_generation=self._writer.generation,
        )
        told = old is not None and (old.status, old.reason) == ("True", reason)
        await self._write(_with(self._status, condition))
        if not told:
            self._tell([Event("Warning", reason, message)])

    def _tell(self, events: Iterable[Event]) -> None:
        self._events.add(self._writer.key, self._writer.uid, events)


def _ours(status: FoundationModelStatus | ExpertModelStatus) -> Condition | None:
    """The condition ``Stalled``, where it is one that was given here."""
    found = find(status.conditions, STALLED)
    return found if found is not None and found.reason in OUR_REASONS else None


def _with(status: StatusT, condition: Condition) -> StatusT:
    """The same status with one condition replaced, in its place."""
    conditions: list[Condition] = list(status.conditions)
    if find(conditions, condition.type) is None:
        conditions.append(condition)
    conditions = [condition if item.type == condition.type else item for item in conditions]
    return status.model_copy(update={"conditions": conditions})
