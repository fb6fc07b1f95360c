"""The TAE log gives back what was written, and never a row that may hold its label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from recast_api.run import RecastError
from recast_trainer.evaluation.burnin import first_usable, similarity
from recast_trainer.tae.log import TaeIndex, TaeRows, files, guard, write_segment


def rows(ids: range, cursor: int = 100, available: int = 200) -> TaeRows:
    count = len(ids)
    return TaeRows(
        np.array(ids, np.int64),
        np.full(count, available, np.int64),
        np.full(count, cursor, np.int64),
        np.random.default_rng(0).normal(size=(count, 4)).astype(np.float16),
    )


def names(count: int) -> np.ndarray:
    return np.array(["feed", "reels"])[np.arange(count) % 2]


def test_a_surface_gets_its_own_rows_back_by_segment_bit_for_bit(tmp_path: Path) -> None:
    first, second = rows(range(6)), rows(range(6, 10))
    write_segment(tmp_path, 0, "prequential", first, names(6), "2026-01-01T00")
    write_segment(tmp_path, 1, "prequential", second, names(4), "2026-01-01T00")
    write_segment(tmp_path, 2, "tail", rows(range(10, 12)), names(2), "2026-01-01T00")
    found = files(tmp_path, "prequential")
    assert [(file.path.name, file.phase) for file in found] == [
        ("00000-prequential.parquet", "prequential"), ("00001-prequential.parquet", "prequential"),
    ]  # fmt: skip
    assert found[0].read("reels").row_ids.tolist() == [1, 3, 5]
    assert found[0].read("reels").tae.tobytes() == first.tae[1::2].tobytes()
    assert found[1].read("feed").row_ids.tolist() == [6, 8]
    assert files(tmp_path, "tail")[0].read("push").tae.shape == (0, 4)
    assert found[1].count() == {"feed": 2, "reels": 2}


def test_a_file_names_the_segment_of_the_data_that_it_is_of(tmp_path: Path) -> None:
    write_segment(tmp_path, 7, "tail", rows(range(2)), names(2), "2026-01-01T05")
    assert [file.segment for file in files(tmp_path, "tail")] == ["2026-01-01T05"]
    path = tmp_path / "00007-tail.parquet"
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    with pytest.raises(RecastError, match=r"00007-tail\.parquet does not name its segment") as caught:
        files(tmp_path, "tail")
    assert caught.value.termination.reason == "TaeLogCorrupt"


def test_writing_a_segment_again_replaces_it_so_that_no_row_is_doubled(tmp_path: Path) -> None:
    for _ in range(2):
        write_segment(tmp_path, 0, "prequential", rows(range(6)), names(6), "2026-01-01T00")
    (only,) = files(tmp_path, "prequential")
    assert only.read("feed").row_ids.tolist() == [0, 2, 4]
    assert len(list(tmp_path.iterdir())) == 1


@given(st.integers(0, 1000), st.integers(0, 1000))
@example(500, 500)
@example(500, 501)
def test_the_guard_refuses_exactly_the_rows_whose_cursor_is_at_or_past_their_label(cursor: int, available: int) -> None:
    one = rows(range(1), cursor, available)
    if cursor < available:
        guard(one.cursor, one.available_at, one.row_ids, "test")
        return
    with pytest.raises(RecastError, match="made after their label was learned") as caught:
        guard(one.cursor, one.available_at, one.row_ids, "test")
    assert caught.value.termination.reason == "TaeLeak"
    assert not caught.value.termination.retryable


def test_one_leaking_row_among_good_ones_is_found_and_named() -> None:
    cursor = np.array([99, 200, 150, 199])
    with pytest.raises(RecastError, match=r"1 of 4 TAE rows .*row 11: model cursor 200 ms, label available 200 ms"):
        guard(cursor, np.full(4, 200), np.arange(10, 14), "test")


def test_a_leaking_row_can_neither_be_written_nor_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leaking = rows(range(2), cursor=200)
    with pytest.raises(RecastError, match="TAE rows were made after"):
        write_segment(tmp_path, 0, "prequential", leaking, names(2), "2026-01-01T00")
    assert list(tmp_path.iterdir()) == []
    with monkeypatch.context() as patch:  # a writer without a guard, such as another program
        patch.setattr("recast_trainer.tae.log.guard", lambda *_: None)
        write_segment(tmp_path, 0, "prequential", leaking, names(2), "2026-01-01T00")
    with pytest.raises(RecastError) as caught:
        files(tmp_path, "prequential")[0].read("feed")
    assert caught.value.termination.reason == "TaeLeak"


def test_a_log_that_lies_about_label_times_is_caught_against_the_data_set() -> None:
    index = TaeIndex(rows(range(3), cursor=100, available=999))
    ids = np.array([[0, 1], [2, 77]])
    _, found = index.lookup(ids, np.full((2, 2), 101))
    assert found.tolist() == [[True, True], [True, False]]
    with pytest.raises(RecastError) as caught:
        index.lookup(ids, np.array([[101, 101], [100, 101]]))
    assert caught.value.termination.reason == "TaeLeak"


def test_looking_up_gives_each_rows_own_vector_and_zeros_for_unknown_rows() -> None:
    written = rows(range(5, 9))
    index = TaeIndex(written.select(np.array([3, 1, 0, 2])))
    tae, found = index.lookup(np.array([6, 0, 8]), np.full(3, 500))
    assert found.tolist() == [True, False, True]
    assert np.array_equal(tae[0], written.tae[1])
    assert np.array_equal(tae[2], written.tae[3])
    assert not tae[1].any()
    assert not TaeIndex(rows(range(0))).lookup(np.array([1]), np.array([5]))[1].any()


def test_a_row_named_twice_is_an_error() -> None:
    with pytest.raises(RecastError, match="names a row twice"):
        TaeIndex(rows(range(3)).select(np.array([0, 1, 2, 1])))


def test_a_truncated_file_is_named_and_is_not_worth_a_retry(tmp_path: Path) -> None:
    path = write_segment(tmp_path, 0, "tail", rows(range(40)), names(40), "2026-01-01T00")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(RecastError) as caught:
        files(tmp_path, "tail")
    assert caught.value.termination.reason == "TaeLogCorrupt"
    assert path.name in caught.value.termination.message
    assert not caught.value.termination.retryable


def test_vectors_that_are_not_finite_are_never_logged(tmp_path: Path) -> None:
    bad = rows(range(2))
    bad.tae[1, 2] = np.inf
    with pytest.raises(RecastError, match="not finite"):
        write_segment(tmp_path, 0, "tail", bad, names(2), "2026-01-01T00")


@pytest.mark.parametrize(
    ("similarities", "first"),
    [
        ([], 0),
        ([0.4], 0),
        ([0.4, 0.3999, 0.4], 2),
        ([0.3999], 1),
        ([0.95, 0.99], 0),
        ([0.2, 0.95], 1),
        ([0.95, 0.1, 0.95, 1.0], 2),
        ([0.99, 0.1], 2),
    ],
)
def test_a_segment_is_burned_in_when_it_and_all_later_ones_resemble_the_final_version(
    similarities: list[float], first: int
) -> None:
    assert first_usable(similarities) == first


def test_similarity_is_the_mean_cosine_of_what_rows_do_not_have_in_common() -> None:
    probe = np.array([[3.0, 4.0], [-3.0, -4.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]], np.float32)
    final = np.array([[4.0, 3.0], [-4.0, -3.0], [2.0, 2.0], [-2.0, -2.0], [0.0, 0.0]], np.float32)
    expected = (2 * 24 / 25 + 2 * 0.5**0.5 + 0) / 5
    assert similarity(probe, final) == pytest.approx(expected)
    assert similarity(probe + np.float32([100, 7]), final - np.float32([3, 50])) == pytest.approx(expected, abs=1e-4)
    assert similarity(probe[:0], final[:0]) == 0


def test_similarity_is_one_for_a_scaled_copy_minus_one_for_a_mirrored_and_zero_for_unrelated_rows() -> None:
    probe = np.random.default_rng(0).normal(size=(4000, 4)).astype(np.float32)
    assert similarity(probe, 3 * probe) == pytest.approx(1)
    assert similarity(probe, -probe) == pytest.approx(-1)
    assert abs(similarity(probe, np.roll(probe, 1, axis=0))) < 0.05
    assert similarity(probe, np.ones_like(probe)) == 0
