"""Which early segments of the TAE log an expert must not learn from.

Early in a run the foundation's embeddings still turn; an expert that learns from them learns a space that is never
served. A fixed set of probe rows is embedded before each segment and once by the final weights. A segment counts as
burned in from the first one on after which the mean cosine between then and final never falls below the threshold.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

THRESHOLD = 0.9


def similarity(probe: NDArray[np.float32], final: NDArray[np.float32]) -> float:
    """Mean cosine between the same rows (P, D) at two points of a run; 0 for vectors of length zero."""
    scale = np.linalg.norm(probe, axis=1) * np.linalg.norm(final, axis=1)
    dots = (probe.astype(np.float64) * final).sum(axis=1)
    return float(np.where(scale > 0, dots / np.maximum(scale, 1e-30), 0.0).mean()) if len(probe) else 0.0


def first_usable(similarities: Sequence[float], threshold: float = THRESHOLD) -> int:
    """Index of the first segment that is burned in; the number of segments where none is."""
    for index in range(len(similarities), 0, -1):
        if similarities[index - 1] < threshold:
            return index
    return 0
