"""References for `deviation`, by hand: all masks, all counts, and high precision. Imports none of it."""

import itertools
import math
from fractions import Fraction

import mpmath
import numpy as np


def masks(shape, keep_prob):
    """Every mask with entries in {0, 1/p} and its probability."""
    for bits in itertools.product((0, 1), repeat=int(np.prod(shape))):
        kept = np.array(bits).reshape(shape)
        yield kept / keep_prob, keep_prob ** kept.sum() * (1 - keep_prob) ** (kept.size - kept.sum())


def loss(x, y, w, mask):
    return float(np.sum((y - (x @ w) * mask) ** 2))


def gradient(x, y, w, mask):
    return -2 * x.T @ (mask * (y - (x @ w) * mask))


def moments(function, shape, keep_prob):
    """Mean and standard deviation of a function of the mask, over all masks."""
    values, chances = zip(*((function(mask), chance) for mask, chance in masks(shape, keep_prob)), strict=True)
    values, chances = np.array(values), np.array(chances)
    mean = np.tensordot(chances, values, 1)
    return mean, np.sqrt(np.tensordot(chances, (values - mean) ** 2, 1))


def over_mask_sequences(x, y, w, keep_prob, n):
    """E|L̄_n − E L| over every sequence of n masks: nothing assumed but independence."""
    table = [(loss(x, y, w, mask), chance) for mask, chance in masks(y.shape, keep_prob)]
    mean = sum(value * chance for value, chance in table)
    return sum(
        math.prod(chance for _, chance in sequence) * abs(sum(value for value, _ in sequence) / n - mean)
        for sequence in itertools.product(table, repeat=n)
    )


def over_counts(x, y, w, keep_prob, n):
    """E|L̄_n − E L| over how often each entry was kept: (n + 1)^{NC} outcomes, the last entry vectorized.

    Probabilities in high precision, losses entry by entry as they are defined.
    """
    z = (x @ w).ravel()
    kept, dropped = (y.ravel() - z / keep_prob) ** 2, y.ravel() ** 2
    with mpmath.workdps(40):
        p = mpmath.mpf(keep_prob)
        chance = np.array([float(mpmath.binomial(n, k) * p**k * (1 - p) ** (n - k)) for k in range(n + 1)])
    k = np.arange(n + 1)
    centred = [(a - b) * (k - n * keep_prob) / n for a, b in zip(kept, dropped, strict=True)]
    values, weights = np.zeros(1), np.ones(1)
    for more in centred:
        if values.size * more.size > 10**6:  # sum over the outcomes so far one by one, to bound memory
            break
        values, weights = np.add.outer(values, more).ravel(), np.multiply.outer(weights, chance).ravel()
    rest = centred[round(math.log(values.size, n + 1)) :]
    total = []
    for outcome in itertools.product(range(n + 1), repeat=len(rest)):
        shift = sum(term[i] for term, i in zip(rest, outcome, strict=True))
        total.append(math.prod(chance[i] for i in outcome) * float(np.sum(weights * np.abs(values + shift))))
    return math.fsum(total)


def on_integers(delta, keep_prob: Fraction, n):
    """E|L̄_n − E L| for whole-number δ in exact rational arithmetic: polynomial powers, nothing rounded."""
    law = {0: Fraction(1)}
    for step in [int(d) for d in delta for _ in range(n)]:
        grown: dict[int, Fraction] = {}
        for value, chance in law.items():
            grown[value] = grown.get(value, Fraction(0)) + chance * (1 - keep_prob)
            grown[value + step] = grown.get(value + step, Fraction(0)) + chance * keep_prob
        law = grown
    mean = n * keep_prob * sum(int(d) for d in delta)
    return float(sum(chance * abs(value - mean) for value, chance in law.items()) / n)


def binomial_deviation(n, probability, digits=40):
    """E|K − np|, K ~ Bin(n, p), in high precision: the sum where it is short, de Moivre's product where it is long."""
    with mpmath.workdps(digits):
        p = mpmath.mpf(probability)
        if n <= 2000:
            terms = (mpmath.binomial(n, k) * p**k * (1 - p) ** (n - k) * abs(k - n * p) for k in range(n + 1))
            return float(mpmath.fsum(terms))
        v = int(mpmath.floor(n * p)) + 1
        log = mpmath.loggamma(n + 1) - mpmath.loggamma(v + 1) - mpmath.loggamma(n - v + 1)
        return float(2 * v * mpmath.exp(log + v * mpmath.log(p) + (n - v + 1) * mpmath.log(1 - p)))


def by_quadrature(delta, keep_prob, n, end=40, digits=25):
    """(2/π)∫₀^∞ (1 − Re φ(t))/t² dt in high precision, for φ that is negligible past `end` standard deviations."""
    with mpmath.workdps(digits):
        p = mpmath.mpf(float(keep_prob))
        d = [mpmath.mpf(float(value)) for value in delta]
        scale = mpmath.sqrt(p * (1 - p) * mpmath.fsum(value**2 for value in d) / n)
        b = [value / n / scale for value in d]

        def phi(t):
            return mpmath.fprod((p * mpmath.expj((1 - p) * v * t) + (1 - p) * mpmath.expj(-p * v * t)) ** n for v in b)

        inside = mpmath.quad(lambda t: (1 - mpmath.re(phi(t))) / t**2, mpmath.linspace(0, end, 21))
        return float(scale * 2 / mpmath.pi * (inside + mpmath.mpf(1) / end))


def by_tree(delta, keep_prob, n=1):
    """E|Σ δ_j(v_j − p)| for at most 26 entries: all outcomes, exactly rounded sum (n = 1)."""
    assert n == 1
    values, chances = np.zeros(1), np.ones(1)
    for d in delta:
        values = np.concatenate([values - d * keep_prob, values + d * (1 - keep_prob)])
        chances = np.concatenate([chances * (1 - keep_prob), chances * keep_prob])
    return math.fsum(chances * np.abs(values))


def on_a_grid(delta, keep_prob):
    """E|Σ δ_j(v_j − p)| for positive whole δ by adding one entry after another to the law on the grid of whole numbers.

    Only positive numbers are added, so rounding stays near 1e-14 however many entries there are.
    """
    law = np.ones(1)
    for step in delta:
        grown = np.zeros(len(law) + int(step))
        grown[: len(law)] += law * (1 - keep_prob)
        grown[int(step) :] += law * keep_prob
        law = grown
    mean = keep_prob * float(np.sum(delta))
    return math.fsum(law * np.abs(np.arange(len(law)) - mean))
