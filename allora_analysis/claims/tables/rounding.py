"""Printed numbers against recomputed ones, in exact decimal arithmetic, with what rounding can explain.

A number printed with u decimals stands for an interval of half-width h = 10^{−u}/2. A recomputed value x from printed
inputs *agrees* with a printed y if |x − y| ≤ h, and rounding *explains* the difference if |x − y| ≤ h + H, where H
bounds what the inputs' own rounding can do to x. Checked by `tests/test_claims_tables.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True)
class Comparison:
    """A printed number beside the same number recomputed from others that the paper prints.

    Attributes:
        where: the printed number's place.
        basis: what it is recomputed from.
        printed: as printed.
        recomputed: from the basis.
        half_unit: half a unit of the printed number's last digit.
        input_error: the most that rounding of the basis can move the recomputed value.
    """

    where: str
    basis: str
    printed: Decimal
    recomputed: Decimal
    half_unit: Decimal
    input_error: Decimal

    @property
    def difference(self) -> Decimal:
        """Printed − recomputed.

        Returns:
            The exact difference.
        """
        return self.printed - self.recomputed

    @property
    def agrees(self) -> bool:
        """Whether the recomputed value rounds to the printed one (ties either way).

        Returns:
            |printed − recomputed| ≤ half_unit.
        """
        return abs(self.difference) <= self.half_unit

    @property
    def explained(self) -> bool:
        """Whether rounding, of the inputs and of the result, can explain the difference.

        Returns:
            |printed − recomputed| ≤ half_unit + input_error.
        """
        return abs(self.difference) <= self.half_unit + self.input_error


def exact(value: float) -> Decimal:
    """The decimal number that a printed literal means: 0.1 is one tenth.

    Args:
        value: a printed number.

    Returns:
        Its shortest decimal representation, exactly.
    """
    return Decimal(repr(float(value)))


def half_unit(decimals: int) -> Decimal:
    """Half a unit of the last of `decimals` digits.

    Args:
        decimals: digits after the point.

    Returns:
        10^{−decimals}/2.
    """
    return Decimal(5).scaleb(-decimals - 1)


def mean(values: Sequence[float]) -> Decimal:
    """The mean of printed numbers, to 28 digits.

    Args:
        values: at least one.

    Returns:
        The mean.
    """
    return sum((exact(value) for value in values), Decimal(0)) / len(values)
