"""The promise of an expert: on rows that nobody has learned it is no worse than its foundation's own heads."""

from __future__ import annotations

from pathlib import Path

from trainer_support import expert_order, order, reference, write_synthetic

from recast_model.artifact import load_foundation
from recast_trainer.evaluation.measure import ScoredRows, aggregate
from recast_trainer.evaluation.report import WHOLE_DATA_SET
from recast_trainer.evaluation.scoring import score_foundation
from recast_trainer.run import execute
from recast_trainer.tae import log as tae_log
from recast_trainer.training.expert import Examples
from recast_trainer.training.process_group import ProcessGroup
from recast_trainer.training.stream import open_stream

TOLERANCE = 0.01
"""Of the NE: what a choice that was made on some hundred rows may cost on others."""
TASKS = {"reels": ("click", "long_view"), "feed": ("click", "long_view"), "ads": ("click", "purchase")}
QUICK = {"batchSize": 32, "learningRate": "0.01", "epochs": 2}


def test_no_expert_is_worse_than_its_foundations_own_heads_on_the_held_out_rows(tmp_path: Path) -> None:
    data = write_synthetic(tmp_path / "data" / "set", hours=30, requests=150)
    made = execute(order(tmp_path, optimization=QUICK), ProcessGroup(), None)
    assert made is not None
    folder = tmp_path / "models" / reference(made)["path"]
    foundation = load_foundation(folder, made, weights=made.measured_weights)  # what serves has learned these rows
    stream = open_stream(data, WHOLE_DATA_SET)
    size = foundation.config.history_length
    for number, (surface, tasks) in enumerate(TASKS.items(), 1):
        wanted = {"surface": surface, "tasks": [{"name": task} for task in tasks]}
        run = expert_order(tmp_path, reference(made), number, optimization=QUICK, expert=wanted)
        expert = execute(run, ProcessGroup(), None)
        assert expert is not None
        held_out = Examples(stream, folder / tae_log.FOLDER, surface, size).is_held_out
        parts = [
            score_foundation(foundation.model, requests, foundation.items, ProcessGroup())[0]
            for _, requests in stream.walk(size, choose=held_out)
        ]
        heads = aggregate(ScoredRows.concatenate(parts), foundation.config.surfaces, foundation.config.tasks)
        ours = expert.aggregate
        assert heads is not None
        assert ours is not None
        assert (ours.rows, ours.positives) == (heads.rows, heads.positives)
        assert float(heads.ne) < 0.97  # else there would be nothing to lose
        assert float(ours.ne) <= float(heads.ne) * (1 + TOLERANCE), surface
