"""A journal gives back what was written, and of one that ends anywhere what is whole of its beginning."""

from __future__ import annotations

from itertools import accumulate

import pyarrow as pa
from answer_builders import a_writer, an_answer, tables
from hypothesis import given
from hypothesis import strategies as st

from recast_api.answer_log import ANSWERS, WRITER_KEY
from recast_model import answer_journal

TABLE = tables(a_writer())[ANSWERS]
BATCHES = [
    TABLE.batch([an_answer(0), an_answer(1, rows=1)]),
    TABLE.batch([an_answer(2, tae=None), an_answer(3)]),
    TABLE.batch([an_answer(4, rows=2, foundation_digest=None, foundation_cursor_ms=None)]),
]
PARTS = [answer_journal.opening(TABLE.schema), *map(answer_journal.frame, BATCHES)]
ENDS = list(accumulate(map(len, PARTS)))
WHOLE = b"".join(PARTS)


def test_a_journal_gives_back_its_batches_and_says_whose_they_are() -> None:
    found = answer_journal.read(WHOLE)
    assert found.batches == BATCHES
    assert found.schema == TABLE.schema
    assert found.schema.metadata[WRITER_KEY] == TABLE.schema.metadata[WRITER_KEY]
    assert found.lost_bytes == 0


def test_any_reader_of_arrow_streams_reads_it() -> None:
    assert pa.ipc.open_stream(WHOLE).read_all() == pa.Table.from_batches(BATCHES)


def test_a_journal_that_is_cut_anywhere_gives_the_batches_that_are_whole() -> None:
    for cut in range(len(WHOLE) + 1):
        found = answer_journal.read(WHOLE[:cut])
        whole = sum(end <= cut for end in ENDS)
        assert found.batches == BATCHES[: max(0, whole - 1)], cut
        assert found.lost_bytes == cut - (ENDS[whole - 1] if whole else 0), cut


@given(st.integers(0, 3), st.binary(max_size=300) | st.integers(1, 600).map(bytes))
def test_what_lies_behind_the_last_whole_batch_gives_no_rows(parts: int, rest: bytes) -> None:
    found = answer_journal.read(b"".join(PARTS[: parts + 1]) + rest)
    assert found.batches == BATCHES[:parts]
    assert found.lost_bytes == len(rest)


@given(st.data())
def test_a_batch_with_a_wrong_byte_is_none_nor_is_what_follows(data: st.DataObject) -> None:
    """As a file that was made longer before its bytes were written."""
    place = data.draw(st.integers(0, 2))
    start, end = ENDS[place], ENDS[place + 1]
    zeroed = data.draw(st.integers(start, end - 1))
    changed = WHOLE[:zeroed] + bytes(end - zeroed) + WHOLE[end:]
    found = answer_journal.read(changed)
    if changed != WHOLE:
        assert found.batches[:place] == BATCHES[:place]
        assert all(batch in BATCHES for batch in found.batches)
