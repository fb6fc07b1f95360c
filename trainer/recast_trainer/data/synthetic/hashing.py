"""Random numbers that are functions of their keys: nothing to store, and the same at any time and in any order.

A key is 64 bits, made of a few integers. The mixing is SplitMix64's finaliser (Steele, Lea, Flood: Fast splittable
pseudorandom number generators, 2014). Only integer operations and exact products make a number, so that it does not
depend on a machine's mathematical library.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Keys = NDArray[np.uint64]
_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_QUARTER = np.uint64(0xFFFF)


def mix(*parts: ArrayLike) -> Keys:
    """Keys of integers that are broadcast together; the order of the parts matters."""
    key: Keys = np.zeros(1, np.uint64)
    for part in parts:
        key = _scramble((key ^ np.asarray(part).astype(np.uint64)) + _STEP)
    return key


def uniform(keys: Keys) -> NDArray[np.float64]:
    """One number in [0, 1) for each key, of the same shape."""
    found: NDArray[np.float64] = (_scramble(keys + _STEP) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return found


def normal(keys: Keys, count: int) -> NDArray[np.float32]:
    """``count`` numbers (..., count) of mean 0 and variance 1 for each key (...).

    The sum of four uniform ones: near enough to normal (kurtosis 2.7), within 3.5, and exact.
    """
    bits = _scramble(keys[..., None] + _STEP * np.arange(2, count + 2, dtype=np.uint64))
    total = (bits & _QUARTER) + (bits >> np.uint64(48))
    total += (bits >> np.uint64(16)) & _QUARTER
    total += (bits >> np.uint64(32)) & _QUARTER
    centred = total.astype(np.float32) - np.float32(2 * 0xFFFF)
    return centred * np.float32(3**0.5 / 0x10000)


def _scramble(keys: Keys) -> Keys:
    keys = (keys ^ (keys >> np.uint64(30))) * _FIRST
    keys = (keys ^ (keys >> np.uint64(27))) * _SECOND
    return keys ^ (keys >> np.uint64(31))
