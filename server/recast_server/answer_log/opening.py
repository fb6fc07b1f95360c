"""The log that a server is configured to keep. Imports PyArrow."""

from __future__ import annotations

import os
import re
import socket
import time
from pathlib import Path

from recast_api.answer_log import ANSWERS, IMPRESSIONS, Writer
from recast_api.server import ANSWERS_OLDEST, ExpertServerConfig, ServedAnswerLog
from recast_server.answer_log.files import Files, LocalFiles
from recast_server.answer_log.log import AnswerLog
from recast_server.answer_log.metrics import AnswerLogMetrics
from recast_server.answer_log.store import Limits, Store
from recast_server.answer_log.tables import answers_table, impressions_table

ROLL_BYTES = 32 * 2**20
"""Of a journal at most. Making a segment of it takes some three times as much memory."""
_NOT_IN_NAMES = re.compile(r"[^a-z0-9-]")


def open_log(
    config: ExpertServerConfig,
    asked: ServedAnswerLog,
    tasks: list[str],
    tae_dim: int,
    metrics: AnswerLogMetrics,
    files: Files | None = None,
) -> AnswerLog:
    """Begins the log of this pod, whose folder is the writer's id: the pod's name and when this process began."""
    pod = _NOT_IN_NAMES.sub("-", os.environ.get("POD_NAME", socket.gethostname()).lower())[:80]
    writer = Writer(
        id=f"{pod}.{time.time_ns() // 1_000_000}-{os.getpid()}",
        model=config.model,
        revision=config.revision,
        version=config.artifact.version,
        digest=config.artifact.digest,
        surface=config.surface,
        tasks=tasks,
        share=asked.share,
    )
    limits = Limits(asked.max_bytes, min(ROLL_BYTES, asked.max_bytes // 8), asked.roll_seconds)
    tables = {ANSWERS: answers_table(writer, tae_dim), IMPRESSIONS: impressions_table(writer)}
    store = Store(
        Path(asked.path),
        pod,
        writer,
        limits,
        files or LocalFiles(),
        lambda table, records: metrics.dropped(table, ANSWERS_OLDEST, records),
    )
    return AnswerLog(
        store,
        tables,
        metrics,
        window_seconds=asked.window_milliseconds / 1000,
        buffer_bytes=min(asked.buffer_mebibytes * 2**20, asked.max_bytes // 8),
    )
