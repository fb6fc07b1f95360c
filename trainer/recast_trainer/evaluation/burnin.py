"""Which early segments of the TAE log an expert must not learn from.

Early in a run the foundation's embeddings still turn; an expert that learns from them learns a space that is never
served. Rows of each segment are embedded once more by the final weights. A segment counts as burned in from the first
one on after which the mean cosine between then and final never falls below the threshold.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

THRESHOLD = 0.4
"""Of a similarity that knows no common part. A segment that is dropped costs an expert more than its age does: on the
default synthetic stream at 400 requests an hour, dropping 9, 17, 24 and 34 of 38 segments gave the smallest surface an
NE of 0.781, 0.814, 0.812 and 0.820."""


def similarity(probe: NDArray[np.float32], final: NDArray[np.float32]) -> float:
    """Mean cosine between the same rows (P, D) at two points of a run, each less its mean over the rows.

    What all rows have in common tells none of them apart, and would let any two points look alike. 0 for rows that are
    all the same, or not finite.
    """
    if not len(probe):
        return 0.0
    one, other = (rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64) for rows in (probe, final))
    scale = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    dots = (one * other).sum(axis=1)
    found = float(np.where(scale > 0, dots / np.maximum(scale, 1e-30), 0.0).mean())
    return found if np.isfinite(found) else 0.0


def first_usable(similarities: Sequence[float], threshold: float = THRESHOLD) -> int:
    """Index of the first segment that is burned in; the number of segments where none is."""
    for index in range(len(similarities), 0, -1):
        if similarities[index - 1] < threshold:
            return index
    return 0
