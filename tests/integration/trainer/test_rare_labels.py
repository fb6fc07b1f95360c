"""Labels as rare as clicks on a shop's front page: a foundation is no worse than their base rate from the start."""

from __future__ import annotations

from pathlib import Path

from recast_api.run import DataRef, Optimization
from recast_model.config import FoundationConfig
from recast_trainer.data.synthetic import SyntheticConfig, SyntheticStream, SyntheticSurface
from recast_trainer.data.writing import write_dataset
from recast_trainer.training.loop import FoundationTrainer
from recast_trainer.training.process_group import ProcessGroup
from recast_trainer.training.stream import Stream, open_stream

RATE = 0.004
ROWS, SLATE, HOURS = 60_000, 6, 50


def rare_stream(folder: Path) -> Stream:
    config = SyntheticConfig(
        users=1500, items=500, hours=HOURS, requests_per_hour=ROWS // SLATE // HOURS, slate=SLATE,
        surfaces=(SyntheticSurface("feed", 1.0, {"click": RATE}),),
    )  # fmt: skip
    made = SyntheticStream(config)
    write_dataset(folder, made.dataset, made.items, made.segments())
    return open_stream(folder, DataRef(path="x"))


def test_what_was_predicted_of_rare_labels_before_they_were_learned_is_as_good_as_their_base_rate(
    tmp_path: Path,
) -> None:
    """Heads that start at one half, or that count before they start, have 1.3 and more; a rate that is too high too."""
    stream = rare_stream(tmp_path / "stream")
    config = FoundationConfig(
        block="DLRMv3", layers=1, dim=8, heads=2, history_length=8, attn_norm_len=8, tae_dim=4,
        content_dim=stream.dataset.content_dim, item_count=len(stream.items), surfaces=stream.dataset.surface_names,
        tasks=stream.dataset.tasks,
    )  # fmt: skip
    settings = Optimization(batch_size=64, learning_rate="0.003")
    made = FoundationTrainer(stream, config, settings, ProcessGroup(), tmp_path / "run")
    made.train()
    rows, positives, _ = made.entropy.sums[0]
    assert 0.8 * RATE < positives / rows < 1.5 * RATE
    assert made.entropy.mean() <= 1.05
