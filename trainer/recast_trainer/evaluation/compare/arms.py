"""What is compared: experts that read the logged TAE or something in its place, and predictions that need none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from recast_model.artifact import FoundationBundle
from recast_model.foundation import FoundationModel
from recast_trainer.evaluation.metrics import Floats
from recast_trainer.evaluation.scoring import RequestTae, absent
from recast_trainer.tae import log as tae_log
from recast_trainer.training.expert import Example, Examples

WITH, SHUFFLED, WITHOUT = "expert with TAE", "expert with shuffled TAE", "expert without TAE"
WITH_OTHER = "expert with the other's TAE"
HEADS, OTHER_HEADS = "foundation's own heads", "the other foundation's heads"
BASE_RATE, ORACLE = "base rate", "oracle"

Reading = Callable[[Example], RequestTae] | None
"""What an arm reads of an example in the place of its logged TAE; None for the TAE."""


@dataclass(frozen=True)
class Foundation:
    """A landed foundation version and its folder."""

    bundle: FoundationBundle
    folder: Path

    @property
    def log(self) -> Path:
        """The folder of its TAE log."""
        return self.folder / tae_log.FOLDER


@dataclass(frozen=True)
class Arm:
    """An expert that is trained."""

    name: str
    foundation: Foundation
    reading: Callable[[int], Reading]
    """What it reads when it is trained with a seed."""
    reads_heads: bool = True
    """Whether it starts as the foundation's heads. What those make of the TAE of others would harm it for good."""


def trained_arms(foundation: Foundation, other: Foundation | None) -> list[Arm]:
    """The experts that are compared."""
    size = foundation.bundle.config.tae_dim
    found = [
        Arm(WITH, foundation, _logged),
        Arm(SHUFFLED, foundation, lambda seed: partial(shuffled, seed), reads_heads=False),
        Arm(WITHOUT, foundation, lambda _: partial(without, size)),
    ]
    return [*found, Arm(WITH_OTHER, other, _logged)] if other else found


def _logged(_: int) -> Reading:
    return None


def without(size: int, example: Example) -> RequestTae:
    """The learned absent vector, everywhere."""
    return absent(example.requests, size)


def shuffled(seed: int, example: Example) -> RequestTae:
    """Each request gets the TAE of one of another user in the same segment: like its own, but not of it.

    Its rows get those of the other slate in turn, so that the statistics within a slate stay too. Where more than half
    of a segment's requests are one user's, some of them find no other's, and have none.
    """
    requests, tae = example.requests, example.tae
    donors = _of_other_users(requests.users, np.random.default_rng([seed, example.segment]))
    place = np.arange(len(requests.rows)) - np.repeat(requests.starts, requests.counts)
    donor = np.repeat(donors, requests.counts)
    found = requests.starts[donor] + place % requests.counts[donor]
    other = requests.users[donors] != requests.users
    return RequestTae(tae.values[found], tae.present[donors] & other)


def _of_other_users(users: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
    """(Q,) a permutation of requests that gives none one of its own user, unless a user has more than half of them."""
    _, owner, counts = np.unique(users, return_inverse=True, return_counts=True)
    # With each user's requests side by side, in random order, no block reaches as far as the largest one is long.
    order = np.lexsort((random.random(len(users)), random.permutation(len(counts))[owner]))
    donors = np.empty(len(users), np.int64)
    donors[order] = np.roll(order, counts.max())
    return donors


def foundation_logits(model: FoundationModel, tae: NDArray[np.float16]) -> Floats:
    """(R, tasks of the foundation): what its main heads make of logged TAE (R, D), as they were when it landed."""
    with torch.inference_mode():
        found: Floats = model.heads(torch.from_numpy(tae).float()).double().numpy()
    return found


def base_rate_logits(examples: Examples) -> Floats:
    """(tasks of the data set,): the share of positive labels in all that is learned.

    Counted with half a positive and half a negative more, so that it is never 0 or 1.
    """
    labels = positives = np.zeros(len(examples.stream.dataset.tasks))
    for phase in (examples.prequential, examples.last_phase):
        for example in examples.learned(phase):
            rows = example.requests.rows
            labels = labels + rows.label_mask.sum(0)
            positives = positives + (rows.labels * rows.label_mask).sum(0)
    return np.log(positives + 0.5) - np.log(labels - positives + 0.5)


def oracle_logits(truth: NDArray[np.float32]) -> Floats:
    """(R, T): of the true probabilities; NaN where the data set does not have them."""
    p = np.clip(truth.astype(np.float64), 1e-7, 1 - 1e-7)  # float32 holds no more
    found: Floats = np.log(p) - np.log1p(-p)
    return found
