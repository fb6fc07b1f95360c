"""Which of the answers that servers logged become an expert's TAE log, and that none of them can hold its label."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainer_builders import DATASET, HOUR, ITEMS, SLATE, START, hand_rows

from recast_api.answer_log import ANSWERS, IMPRESSIONS, NOT_PRESENTED, Writer, request_number
from recast_api.manifest import Manifest
from recast_api.run import RecastError
from recast_server.answer_log.answer import Answer
from recast_server.answer_log.files import LocalFiles
from recast_server.answer_log.store import Limits, Store
from recast_server.answer_log.tables import answers_table, impressions_table
from recast_server.expert.impressions_api import Impressions, ShownItem
from recast_trainer.clock import from_rfc3339, to_rfc3339
from recast_trainer.data.schema import Rows
from recast_trainer.data.writing import write_dataset
from recast_trainer.tae import from_answers, log
from recast_trainer.tae.from_answers import Report, convert, match, require_of

HOURS, PER_HOUR, DIM = 6, 6, 4
ROWS = hand_rows(HOURS, PER_HOUR)
REQUESTS = [int(request) for request in np.unique(ROWS.request_ids) if request % 2 == 0]
"""Those on reels."""


def a_manifest(watermark_ms: int = START - HOUR, number: int = 3) -> Manifest:
    return Manifest(
        kind="FoundationModel", model="home-fm", uid="u", number=number, lineage=2, created="2026-01-01T00:00:00Z",
        watermark=to_rfc3339(watermark_ms), files=[], config={}, surfaces=["feed", "reels"], tasks=["click", "like"],
        job_name="job", inputs_hash="h",
    )  # fmt: skip


FOUNDATION = a_manifest()


def vector(row: int) -> np.ndarray:
    return np.array([row, -row, 1, 0], np.float16)


@dataclass
class World:
    """A data set, and a log of answers that a server's own code writes."""

    root: Path
    rows: Rows = field(default_factory=lambda: ROWS)
    writers: int = 0

    def __post_init__(self) -> None:
        times = self.rows.event_times
        parts = [
            (start, self.rows.take((times >= start) & (times < start + HOUR)))
            for start in range(START, START + HOURS * HOUR, HOUR)
        ]
        write_dataset(self.root / "data", DATASET, ITEMS, parts)

    def answer(self, request: int, **changes: Any) -> Answer:
        """As a server would have answered it; vectors name their rows."""
        rows = self.rows.take(self.rows.request_ids == request)
        count = len(rows)
        values: dict[str, Any] = {
            "request_id": str(request), "time_ms": int(rows.event_times[0]), "answered_ms": int(rows.event_times[0]),
            "user": int(rows.users[0]), "rung": "fresh", "foundation_version": 3,
            "foundation_digest": FOUNDATION.digest, "foundation_cursor_ms": None, "candidates": count,
            "items": rows.items, "positions": np.arange(count, dtype=np.int32),
            "propensities": np.ones(count, np.float32), "scores": np.zeros(count),
            "probabilities": np.zeros((count, 2), np.float32), "tae": np.stack([vector(r) for r in rows.row_ids]),
        }  # fmt: skip
        return Answer(**(values | changes))

    def write(self, *records: Answer | Impressions, surface: str = "reels", rolled: bool = True) -> None:
        self.writers += 1
        writer = Writer(
            id=f"pod.{self.writers}", model="reels", revision="r", version=1, digest=FOUNDATION.digest,
            surface=surface, tasks=["click", "like"], share="0.5",
        )  # fmt: skip
        limits = Limits(1 << 30, 1 << 28, 3600.0)
        store = Store(self.root / "log", "pod", writer, limits, LocalFiles(), lambda table, count: None)
        store.open()
        tables = {ANSWERS: answers_table(writer, DIM), IMPRESSIONS: impressions_table(writer)}
        for record in records:
            name = ANSWERS if isinstance(record, Answer) else IMPRESSIONS
            store.append(tables[name], [record], 0.0)
        if rolled:
            store.tidy(0.0, everything=True)

    def convert(self, foundation: Manifest = FOUNDATION) -> Report:
        return convert(self.root / "log", self.root / "data", foundation, self.root / "out")

    def logged(self) -> log.TaeRows:
        """All rows of the log, by row id."""
        phases: tuple[log.Phase, log.Phase] = ("prequential", "tail")
        parts = [file.read("reels") for phase in phases for file in log.files(self.root / "out", phase)]
        found = log.TaeRows(*(np.concatenate([getattr(p, name) for p in parts]) for name in vars(parts[0])))
        return found.select(np.argsort(found.row_ids))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def rows_of(*requests: int) -> list[int]:
    return sorted(ROWS.row_ids[np.isin(ROWS.request_ids, requests)].tolist())


def test_every_answered_row_of_the_data_is_in_the_log_with_its_own_embedding(world: World) -> None:
    world.write(*(world.answer(request) for request in REQUESTS))
    report = world.convert()
    found = world.logged()
    assert found.row_ids.tolist() == rows_of(*REQUESTS)
    assert found.tae.tobytes() == np.stack([vector(row) for row in found.row_ids]).tobytes()
    assert found.available_at.tolist() == ROWS.first_known[found.row_ids - 1].tolist()
    assert set(found.cursor.tolist()) == {from_rfc3339(FOUNDATION.watermark)}
    assert (report.rows, report.segments, report.weighted, report.left_out) == (len(found), HOURS, 0, {})
    assert [file.segment for file in log.files(world.root / "out", "tail")] == ["2026-01-01T04", "2026-01-01T05"]
    assert all(file.partial for file in log.files(world.root / "out", "prequential"))


def test_some_rows_of_a_request_are_enough_and_keep_their_propensity(world: World) -> None:
    first, *others = REQUESTS
    sampled = world.answer(first)
    one = {name: getattr(sampled, name)[1:] for name in ("items", "scores", "probabilities", "tae")}
    some = world.answer(
        first, **one, positions=np.array([NOT_PRESENTED], np.int32), propensities=np.array([0.25], np.float32)
    )
    world.write(some, *map(world.answer, others))
    assert world.convert().weighted == 1
    found = world.logged()
    assert found.row_ids.tolist() == [rows_of(first)[1], *rows_of(*others)]
    assert found.propensity.tolist() == [0.25, *[1.0] * (len(found) - 1)]


LATER = "that were not shown, as clients reported"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rung": "cached", "foundation_digest": None}, "answered without a fresh embedding"),
        ({"rung": "pooled", "foundation_digest": None}, "answered without a fresh embedding"),
        ({"rung": "absent", "foundation_digest": None, "tae": None}, "answered without a fresh embedding"),
        ({"foundation_digest": a_manifest(number=4).digest}, "with an embedding of another foundation version"),
        ({"foundation_cursor_ms": START + 100 * HOUR}, "whose label the foundation had learned"),
        ({"time_ms": int(ROWS.first_known[2]) + 1}, "asked for after their label was known"),
    ],
    ids=["cached", "pooled", "absent", "another-version", "learned", "too-late"],
)
def test_an_answer_that_may_not_be_learned_from_is_left_out_and_counted(
    world: World, changes: dict[str, Any], reason: str
) -> None:
    first, *others = REQUESTS
    world.write(world.answer(first, **changes), *map(world.answer, others))
    assert world.convert().left_out == {reason: SLATE}
    assert world.logged().row_ids.tolist() == rows_of(*others)


def test_the_time_of_a_label_itself_is_not_too_late_for_its_request(world: World) -> None:
    """History is what was known strictly before the request."""
    first, *others = REQUESTS
    at = int(ROWS.first_known[ROWS.request_ids == first].min())
    world.write(world.answer(first, time_ms=at), *map(world.answer, others))
    assert world.convert().left_out == {}


@pytest.mark.parametrize("claimed", [None, START - 100 * HOUR])
def test_a_server_that_says_nothing_or_less_than_the_version_had_learned_hides_no_leak(
    world: World, claimed: int | None
) -> None:
    """Planted: the foundation learned all labels up to the middle of the second hour."""
    until = START + HOUR + HOUR // 2 + 1000  # when those of the request in its middle are known
    learned = a_manifest(until)
    digest = {"foundation_digest": learned.digest, "foundation_cursor_ms": claimed}
    world.write(*(world.answer(request, **digest) for request in REQUESTS))
    report = world.convert(learned)
    safe = ROWS.row_ids[(ROWS.first_known > until) & np.isin(ROWS.request_ids, REQUESTS)]
    assert world.logged().row_ids.tolist() == safe.tolist()
    assert report.left_out == {"whose label the foundation had learned": len(rows_of(*REQUESTS)) - len(safe)}


def test_a_leak_that_nobody_left_out_is_refused_by_the_logs_own_guard(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.write(*(world.answer(request, foundation_cursor_ms=START + 100 * HOUR) for request in REQUESTS))
    monkeypatch.setattr(from_answers, "_counts", lambda rows, *_: np.ones(len(rows), np.bool_))
    with pytest.raises(RecastError) as caught:
        world.convert()
    assert caught.value.termination.reason == "TaeLeak"
    assert not (world.root / "out").exists()


def test_where_clients_reported_what_they_showed_the_rest_does_not_count(world: World) -> None:
    first, second, *others = REQUESTS
    shown = world.answer(first).items[0]
    report = Impressions(str(first), (ShownItem(item=int(shown), position=0),), 5)
    nothing_of_ours = Impressions(str(second), (ShownItem(item=1, position=0),), 5)
    world.write(*map(world.answer, REQUESTS), report, report, nothing_of_ours)
    assert world.convert().left_out == {LATER: 3}
    assert world.logged().row_ids.tolist() == [rows_of(first)[0], *rows_of(*others)]


def test_of_a_request_that_was_sent_again_the_earliest_fresh_answer_counts_once(world: World) -> None:
    first, *others = REQUESTS
    time = int(ROWS.event_times[ROWS.request_ids == first][0])
    other = np.full((SLATE, DIM), 7, np.float16)
    world.write(world.answer(first, time_ms=time + 1, tae=other), world.answer(first))
    world.write(world.answer(first, time_ms=time - 1, rung="cached", tae=other), *map(world.answer, others))
    world.convert()
    found = world.logged()
    assert found.row_ids.tolist() == rows_of(*REQUESTS)
    assert found.tae.tobytes() == np.stack([vector(row) for row in found.row_ids]).tobytes()


@pytest.mark.parametrize("changes", [{"user": 99}, {"request_id": "elsewhere"}, {"items": np.array([1, 2])}])
def test_another_users_request_or_item_is_not_this_one(world: World, changes: dict[str, Any]) -> None:
    first, *others = REQUESTS
    world.write(world.answer(first, **changes), *map(world.answer, others))
    world.convert()
    assert world.logged().row_ids.tolist() == rows_of(*others)


def test_answers_of_another_surface_are_not_this_ones(world: World) -> None:
    world.write(*map(world.answer, REQUESTS))
    world.write(*map(world.answer, REQUESTS), surface="feed")
    world.write(*map(world.answer, REQUESTS), surface="of a newer release")
    assert world.convert().rows == len(rows_of(*REQUESTS))


def test_journals_count_too_and_none_twice(world: World) -> None:
    """Of pods that were lost, and of those that still serve."""
    half = len(REQUESTS) // 2
    world.write(*map(world.answer, REQUESTS[:half]))
    world.write(*map(world.answer, REQUESTS[half:]), rolled=False)
    (journal,) = (world.root / "log").rglob(".*.arrows")
    journal.write_bytes(journal.read_bytes() + b"cut off")
    (manifest,) = (world.root / "log").rglob("*.json")
    manifest.with_name(".answers-000001.arrows").write_bytes(journal.read_bytes())  # not yet removed
    world.convert()
    assert world.logged().row_ids.tolist() == rows_of(*REQUESTS)


def test_a_segment_without_its_manifest_is_none(world: World) -> None:
    half = len(REQUESTS) // 2
    world.write(*map(world.answer, REQUESTS[:half]))
    next((world.root / "log").rglob("*.json")).unlink()
    world.write(*map(world.answer, REQUESTS))
    assert world.convert().rows == len(rows_of(*REQUESTS))


@pytest.mark.parametrize("damage", ["bytes", "manifest", "columns"])
def test_a_damaged_segment_is_named_with_what_to_do(world: World, damage: str) -> None:
    world.write(*map(world.answer, REQUESTS))
    (manifest,) = (world.root / "log").rglob("*.json")
    rows = manifest.with_suffix(".parquet")
    if damage == "bytes":
        rows.write_bytes(rows.read_bytes()[:-1])
    elif damage == "manifest":
        manifest.write_text("{}")
    else:
        from hashlib import sha256

        pq.write_table(pq.read_table(rows).drop_columns(["rung"]), rows)
        told = json.loads(manifest.read_text()) | {"sha256": sha256(rows.read_bytes()).hexdigest()}
        manifest.write_text(json.dumps(told))
    with pytest.raises(RecastError, match="answers-000001") as caught:
        world.convert()
    assert caught.value.termination.reason == "AnswerLogCorrupt"


def test_a_segment_that_its_writer_removes_meanwhile_is_passed_over(world: World) -> None:
    world.write(*map(world.answer, REQUESTS[:2]))
    next((world.root / "log").rglob("*.parquet")).unlink()
    world.write(*map(world.answer, REQUESTS[2:]))
    assert world.convert().rows == len(rows_of(*REQUESTS[2:]))


def test_nothing_to_join_says_what_was_left_out(world: World) -> None:
    with pytest.raises(RecastError, match="holds no answers") as caught:
        world.convert()
    assert caught.value.termination.reason == "AnswersNotFound"
    world.write(*(world.answer(request, rung="cached") for request in REQUESTS))
    with pytest.raises(RecastError, match=f"{len(rows_of(*REQUESTS))} answered without a fresh") as caught:
        world.convert()
    assert caught.value.termination.reason == "AnswersNotFound"
    (world.root / "out").mkdir()
    with pytest.raises(RecastError, match="is there already"):
        world.convert()


def test_an_expert_reads_a_log_of_its_own_foundation_alone(world: World) -> None:
    world.write(*map(world.answer, REQUESTS))
    world.convert()
    require_of(world.root / "out", FOUNDATION.digest)
    for folder, digest in ((world.root / "out", a_manifest(number=4).digest), (world.root, FOUNDATION.digest)):
        with pytest.raises(RecastError, match="recast data from-answers") as caught:
            require_of(folder, digest)
        assert caught.value.termination.reason == "TaeLogCorrupt"


def test_labels_keep_their_two_times(tmp_path: Path) -> None:
    """A row counts by the first of its labels to be known; each is still learned by its own time."""
    late = replace(ROWS, available_at=ROWS.available_at + np.array([0, 5 * HOUR]))
    world = World(tmp_path, late)
    world.write(*map(world.answer, REQUESTS))
    world.convert()
    assert world.logged().available_at.tolist() == ROWS.available_at[np.array(rows_of(*REQUESTS)) - 1, 0].tolist()


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=12),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=12),
)
def test_a_row_matches_the_first_that_is_equal(left: list[tuple[int, int]], right: list[tuple[int, int]]) -> None:
    found = match(np.array(left, np.int64).reshape(-1, 2), np.array(right, np.int64).reshape(-1, 2))
    assert found.tolist() == [right.index(row) if row in right else -1 for row in left]


@pytest.mark.parametrize("text", ["0", "7", str(2**63 - 1)])
def test_a_number_is_its_own_request_id(text: str) -> None:
    assert request_number(text) == int(text)


@given(st.text(st.characters(codec="utf-8"), max_size=64))
def test_any_other_request_id_has_a_number_that_a_data_set_can_hold(text: str) -> None:
    assert 0 <= request_number(text) < 2**63


def test_ids_that_only_look_like_a_number_are_hashed() -> None:
    texts = ["07", str(2**63), "-1", "1.0", "٧", ""]
    assert len({request_number(text) for text in texts}) == len(texts)
    assert not {7, 2**63, 1} & {request_number(text) for text in texts}
    assert request_number("4f1b") == 8299698503898257521  # for ever
