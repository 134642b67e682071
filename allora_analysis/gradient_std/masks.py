"""Dropout masks from random bytes: exactly Bernoulli(keep_prob), one byte an entry for nearly all of them.

Checked by `tests/test_gradient_std_estimator.py`.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import UInt8

from allora_analysis.validation import keep_probability

LEVELS = 256


class MaskStream:
    """Independent Bernoulli(p) entries U < p, U uniform, by the first byte of U; only a tie draws the rest of U.

    A byte below ⌊256p⌋ keeps its entry and one above drops it; at ⌊256p⌋ (one entry in 256) the rest of U decides,
    uniform again: keep with probability 256p − ⌊256p⌋. So p need not be a multiple of 1/256.
    """

    def __init__(self, keep_prob: float, generator: np.random.Generator):
        self.keep_prob = keep_probability(keep_prob)
        self._tie = math.floor(LEVELS * self.keep_prob)
        self._rest = LEVELS * self.keep_prob - self._tie
        self.threshold = min(max(self._tie, 1), LEVELS - 1)
        self._generator = generator

    def fill(self, out: UInt8[np.ndarray, "masks entries"]) -> None:
        """Draw masks, one after the other, so that they depend on the stream alone and not on how many are asked for.

        Args:
            out: overwritten; an entry is kept where its byte is below `threshold`.
        """
        if self.keep_prob == 1.0:
            out[...] = 0
            return
        for row in out:
            words = self._generator.integers(0, 2**64 - 1, -(-row.size // 8), dtype=np.uint64, endpoint=True)
            row[:] = words.view(np.uint8)[: row.size]
            if self._rest:
                ties = np.flatnonzero(row == self._tie)
                row[ties] = np.where(self._generator.random(ties.size) < self._rest, 0, LEVELS - 1)
