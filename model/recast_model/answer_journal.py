"""Journals of the log of answers: record batches of an Arrow IPC stream, each with a checksum.

A process that is killed, or a node that is lost, leaves a journal that ends anywhere. Whoever reads one, the server
that starts next or a trainer, takes what is whole from its beginning and drops the rest: a batch counts only if its
checksum is right, so that a file that grew without its bytes gives no rows that nobody wrote. Needs PyArrow and no
torch.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import pyarrow as pa

_CHECKSUM = b"crc32"


def opening(schema: pa.Schema) -> bytes:
    """The bytes that a journal begins with."""
    return bytes(schema.serialize())


def frame(batch: pa.RecordBatch) -> bytes:
    """The bytes of one batch."""
    sink = pa.BufferOutputStream()
    writer = pa.ipc.new_stream(sink, batch.schema)
    begin = opening(batch.schema)
    writer.write_batch(batch, custom_metadata={_CHECKSUM: _checksum(batch)})
    end = sink.tell()  # closing adds a mark of the end, which a journal that goes on does not have
    writer.close()
    return bytes(sink.getvalue()[len(begin) : end])


@dataclass(frozen=True)
class Journal:
    """What a journal holds."""

    schema: pa.Schema | None
    """None where not even that was whole."""
    batches: list[pa.RecordBatch]
    lost_bytes: int
    """Behind the last whole batch."""


def read(data: bytes) -> Journal:
    """All that is whole of a journal's bytes."""
    source = pa.BufferReader(data)
    batches: list[pa.RecordBatch] = []
    schema, good = None, 0
    try:
        reader = pa.ipc.open_stream(source)
        schema, good = reader.schema, source.tell()
        while True:
            found = reader.read_next_batch_with_custom_metadata()
            found.batch.validate(full=True)
            if (found.custom_metadata or {}).get(_CHECKSUM) != _checksum(found.batch):
                break
            batches.append(found.batch)
            good = source.tell()
    except (pa.ArrowException, OSError, StopIteration, UnicodeDecodeError):
        pass  # the end, be it whole or cut off
    return Journal(schema, batches, len(data) - good)


def _checksum(batch: pa.RecordBatch) -> bytes:
    return b"%d" % zlib.crc32(batch.serialize())
