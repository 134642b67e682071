"""SGD under dropout in §3.1's model, from first principles: moments summed over each row's own masks.

W ← W + 2l(masked X)ᵀ(Y − masked X·W) from 0 with fresh masks at every step: p the keep probability, k = (1 − p)/p,
S = XᵀX, h_n the diagonal of XX⁺. With H = S/p (masks on the output) or S + k diag S (on the input), E W_t is descent on
the regularized objective ‖Y‖² − 2Tr(WᵀXᵀY) + Tr(WᵀHW), and masks add a covariance. The rows on W
hold `dropout_sgd`, which judges them (`measured_risks`), against these moments, which take from it its largest rate
alone. `Tiny` problems, of W or of A and B, by SGD or by Adam, are summed over every sequence of masks. Checked by
`tests/test_masked_descent.py`.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from allora_analysis import dropout_sgd
from allora_analysis.claims.cases import PAPER_KEEP, PAPER_NOISE, Case
from allora_analysis.claims.claim import Reliance, claim

PLACEMENTS = ("output", "input")
sgd_claim = functools.partial(claim, command="python -m allora_analysis.dropout_sgd", test="tests/test_dropout_sgd.py")
TOLERANCE = 1e-9
EXACT = "exact moments; no tolerance: an order"
NOT_THE_PAPERS = "Plain SGD on a linear model is not the paper's own setting: whether it is true there is left open."
RISK = "population risk (on new inputs of equal variances)"
DROPOUT_GUIDE = Reliance(
    "Unsloth",
    "LoRA Hyperparameters Guide",
    "docs.unsloth.ai, on lora_dropout: 'Recent research suggests that for the short training runs common in "
    "fine-tuning, lora_dropout may be an unreliable regularizer', citing arXiv:2410.09692",
)


class Sgd(NamedTuple):
    """X (N×D), true weights (D,), the noise in Y, the keep probability, l, a number of steps, and the masks' place."""

    x: np.ndarray
    w: np.ndarray
    noise: float
    keep_prob: float
    rate: float
    steps: int
    placement: str

    @property
    def labels(self) -> np.ndarray:
        """Y in N + 1 columns, the signal and noise in each row: sums over them are expectations over the noise."""
        return np.hstack([self.x @ self.w[:, None], self.noise * np.eye(len(self.x))])

    @property
    def truth(self) -> np.ndarray:
        """The true weights of `labels`."""
        return np.hstack([self.w[:, None], np.zeros((len(self.w), len(self.x)))])


def turned(n: int, singular: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """X with these singular values and random singular vectors."""
    left, right = (np.linalg.qr(rng.standard_normal((size, len(singular))))[0] for size in (n, len(singular)))
    return (left * singular) @ right.T


def setting(
    rng: np.random.Generator, keep_prob: float, steps: int, fraction: float, placement: str | None = None
) -> Sgd:
    """N up to 6, D up to 3, spectra up to sixfold, weights even or along small directions; noise 1 until it is set.

    Masks on either place where none is given.
    """
    d = int(rng.integers(1, 4))
    singular = np.geomspace(1, 1 / float(rng.choice([1.5, 3.0, 6.0])), d)
    x = turned(d + int(rng.integers(1, 4)), singular, rng)
    w = rng.standard_normal(d)
    if rng.random() < 0.5:
        right = np.linalg.svd(x)[2]
        w = right.T @ (right @ w / singular)
    place = placement or str(rng.choice(PLACEMENTS))
    rate = fraction * dropout_sgd.stability_limits(x, keep_prob, place).mean_square
    return Sgd(x, w / np.linalg.norm(w), 1.0, keep_prob, rate, steps, place)


def falling_spectra(
    rng: np.random.Generator,
    steps: int,
    noise: float = PAPER_NOISE,
    keep_prob: float = PAPER_KEEP,
    rows: int = 8,
) -> list[Case]:
    """LoRA's masks and the paper's, drop rate 0.05 if no other, a spectrum that falls; noise in units of the signal."""
    found = []
    for placement in PLACEMENTS:
        x = turned(rows, np.arange(1.0, 5.0) ** -0.5, rng)
        w = rng.standard_normal(4)
        rate = 0.1 * dropout_sgd.stability_limits(x, keep_prob, placement).mean_square
        level = noise * float(np.linalg.norm(x @ w)) / math.sqrt(rows)
        one = Sgd(x, w, level, keep_prob, rate, steps, placement)
        found.append(Case(f"{placement} masks, p = {keep_prob:g}, noise {noise:g} of signal 1", one))
    return found


def row_masks(x: np.ndarray, keep_prob: float, placement: str) -> tuple[np.ndarray, np.ndarray]:
    """Every masked form of each row (N × masks × D), and the masks' probabilities."""
    if keep_prob == 1:
        return x[:, None, :], np.ones(1)
    size = 1 if placement == "output" else x.shape[1]
    kept = np.array(list(itertools.product((0, 1), repeat=size)), dtype=float)
    number = kept.sum(axis=1)
    return x[:, None, :] * kept / keep_prob, keep_prob**number * (1 - keep_prob) ** (size - number)


def pulls(one: Sgd) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """XᵀX, what k multiplies in H (XᵀX, or its diagonal for masks on the input), and H."""
    gram, k = one.x.T @ one.x, (1 - one.keep_prob) / one.keep_prob
    added = gram if one.placement == "output" else np.diag(np.diag(gram))
    return gram, added, gram + k * added


class Moments(NamedTuple):
    """E W_t (T + 1 × D × C) and Cov W_t summed over columns (T + 1 × D × D)."""

    mean: np.ndarray
    covariance: np.ndarray

    @property
    def spread(self) -> np.ndarray:
        """√tr Cov W_t."""
        return np.sqrt(np.maximum(np.trace(self.covariance, axis1=1, axis2=2), 0.0))


def _maps(one: Sgd, y: np.ndarray, keep_prob: float) -> tuple[np.ndarray, np.ndarray, Callable[..., np.ndarray]]:
    """A step by sums over each row's masks: of the mean, of the covariance, and what means (T×D×C) add to that.

    Columns enter through sums alone, as a row pulls by u(y − uᵀW): ‖y‖² times Cov(u, u), Wy times Cov(u, uuᵀ), and WWᵀ
    times Cov(uuᵀ, uuᵀ).
    """
    x, (n, d) = one.x, one.x.shape
    u, chance = row_masks(x, keep_prob, one.placement)
    outer = u[..., :, None] * u[..., None, :]
    squares = chance[:, None, None] * outer
    rows = squares.sum(axis=1)
    forward = np.eye(d) - 2 * one.rate * rows.sum(axis=0)
    second = rows - x[:, :, None] * x[:, None]
    third = (u.swapaxes(1, 2) @ squares.reshape(n, -1, d * d)).reshape(n, d, d, d) - x[:, :, None, None] * rows[:, None]
    fourth = np.tensordot(squares, outer, ((0, 1), (0, 1))) - np.einsum("nde,nfg->dgef", rows, rows)
    fourth = fourth.reshape(d * d, d * d)
    carried = np.kron(forward, forward) + 4 * one.rate**2 * fourth

    def added(means: np.ndarray) -> np.ndarray:
        turned_means = means.swapaxes(1, 2)
        alone = np.tensordot((y**2).sum(axis=1), second, 1)
        crossed = np.tensordot(y @ turned_means, third, ((1, 2), (0, 3)))
        squared = (means @ turned_means).reshape(-1, d * d) @ fourth.T
        return 4 * one.rate**2 * (alone - crossed - crossed.swapaxes(1, 2) + squared.reshape(-1, d, d))

    return forward, carried, added


def moments(one: Sgd, y: np.ndarray, keep_prob: float) -> Moments:
    """Of W_0 = 0, …, W_T, by `_maps`."""
    d = one.x.shape[1]
    forward, carried, added = _maps(one, y, keep_prob)
    means, covariances, pull = [np.zeros((d, y.shape[1]))], [np.zeros(d * d)], 2 * one.rate * one.x.T @ y
    for _ in range(one.steps):
        means.append(forward @ means[-1] + pull)
    for noise in added(np.array(means[:-1])).reshape(-1, d * d):
        covariances.append(carried @ covariances[-1] + noise)
    return Moments(np.array(means), np.reshape(covariances, (-1, d, d)))


def left_by_masks(one: Sgd, y: np.ndarray) -> tuple[np.ndarray, float]:
    """W̄ = H⁻¹Xᵀy of the limit, and the trace of Cov W_t, to first order in l: γ(y) = l tr H⁻¹Q, for X of full rank.

    Q is the covariance over masks of X̃ᵀ(y − X̃W̄), summed over y's columns; HC + CH = 2lQ. With masks on the output it
    is γ(y) = l(1 − p)Σ h_n(y − XX⁺y)_n².
    """
    curvature = pulls(one)[2]
    mean = np.linalg.solve(curvature, one.x.T @ y)
    noise = _maps(one, y, one.keep_prob)[2](mean[None])[0]  # 4l²Q
    return mean, float(np.trace(np.linalg.solve(curvature, noise))) / (4 * one.rate)


def risks(one: Sgd, keep_prob: float, population: np.ndarray | None = None) -> np.ndarray:
    """α_t and β_t (2 × T + 1) of the population risk E‖W_t − W_true‖²_Σ = α_t + σ²β_t, σ² the noise's variance in Y.

    Σ (D×D) is the covariance of new inputs, the identity where none is given.
    """
    sigma = np.eye(one.x.shape[1]) if population is None else population
    parts = (one.x @ one.w[:, None], one.w[:, None]), (np.eye(len(one.x)), 0.0)
    found = []
    for y, target in parts:
        of = moments(one, y, keep_prob)
        off = of.mean - target
        found.append((off * (sigma @ off)).sum(axis=(1, 2)) + np.tensordot(of.covariance, sigma))
    return np.array(found)


LEVELS = np.geomspace(0.1, 5, 40)  # noise in Y, in units of the signal


def gap_at_worst(one: Sgd, dropout: np.ndarray, without: np.ndarray) -> float:
    """By how many % the lowest risk without dropout is above that with it, at the worst of the `LEVELS` of noise.

    Each is given as α_t and β_t of `risks`.
    """
    squares = (LEVELS[:, None] * np.linalg.norm(one.x @ one.w)) ** 2 / len(one.x)
    lowest = [(signal + squares * labels).min(axis=1) for signal, labels in (dropout, without)]
    return 100 * float(np.max(lowest[1] / lowest[0]) - 1)


def worst_gap(one: Sgd, population: np.ndarray | None = None) -> float:
    """`gap_at_worst` from moments summed over masks."""
    return gap_at_worst(one, *(risks(one, keep_prob, population) for keep_prob in (one.keep_prob, 1.0)))


def _cost_over_gain(dropout: np.ndarray, other: np.ndarray, noise: float) -> float:
    """What dropout adds to the risk over what it takes off, signal and noise apart: above 1 where it is behind."""
    signal, labels = dropout - other
    cost = max(signal, 0.0) + noise**2 * max(labels, 0.0)
    gain = max(-signal, 0.0) + noise**2 * max(-labels, 0.0)
    return math.inf if gain == 0 else float(cost / gain)


def behind(one: Sgd) -> float:
    """`_cost_over_gain` against training without dropout, after `steps` steps."""
    return _cost_over_gain(risks(one, one.keep_prob)[:, -1], risks(one, 1.0)[:, -1], one.noise)


def cost_over_saving(one: Sgd) -> float:
    """Tr S/(2lt(t − 1)‖S‖²_F): above 1 no noise in Y makes dropout pay after t steps, with masks on the output.

    To leading order in lt‖X‖²/p the noise in Y costs dropout 4l²kt tr S of covariance and saves 8l³kt²(t − 1)‖S‖²_F of
    variance, per unit of σ²; what it does to the signal only costs. At rates that are not small either may be the more.
    """
    gram, t = one.x.T @ one.x, one.steps
    return math.inf if t == 1 else float(np.trace(gram) / (2 * one.rate * t * (t - 1) * np.sum(gram**2)))


def best_without(one: Sgd) -> int:
    """The step of least risk without dropout: Σ (1 − b_i)²w_i² + b_i²σ²/s_i², b_i = 1 − (1 − 2ls_i²)^t."""
    _, s, right = np.linalg.svd(one.x, full_matrices=False)
    left = (1 - 2 * one.rate * s**2) ** np.arange(1, 401)[:, None]
    risk = (left**2 * (right @ one.w) ** 2 + (1 - left) ** 2 * one.noise**2 / s**2).sum(axis=1)
    return 1 + int(np.argmin(risk))


def with_noise(one: Sgd, ratio: float, rng: np.random.Generator) -> Sgd:
    """Labels with a noise from half to twice σ²·ratio, where a boundary is; of any size where the ratio is 0 or ∞."""
    square = one.noise**2 * ratio if 0 < ratio < math.inf else 10 ** rng.uniform(-2, 2)
    return one._replace(noise=math.sqrt(square * 2 ** rng.uniform(-1, 1)))


FEW = (1, 2, 3, 5, 10)
MANY_ROWS, MANY = 512, 40  # rows, and settings that have so many
SMALL = 1 / 8
RATES = f"l ≤ {SMALL:g}·p/(t‖X‖²)"
MARGIN = 1.35
OFF = (
    f"draws, p ≥ 0.2, keep a factor of {MARGIN:g} away from the boundary, which is off by up to a third at these rates "
    "(two fifths at p = 0.1)"
)


def highest_small(one: Sgd) -> float:
    """The largest rate that `RATES` allows."""
    return SMALL * one.keep_prob / (one.steps * float(np.linalg.norm(one.x, 2)) ** 2)


def early(rng: np.random.Generator, keep_prob: float) -> Sgd:
    """1 to 10 steps at up to the largest small rate, and a quarter of the one at which `cost_over_saving` is 1."""
    one = setting(rng, keep_prob, int(rng.choice(FEW)), 1.0, "output")
    return one._replace(rate=min(highest_small(one), one.rate * cost_over_saving(one) / 4) * float(rng.uniform(0.5, 1)))


def with_rows(one: Sgd, rng: np.random.Generator) -> Sgd:
    """Another of `MANY_ROWS` rows of 4 inputs whose variances fall, at the same share of the largest rate."""
    share = one.rate / dropout_sgd.stability_limits(one.x, one.keep_prob, one.placement).mean_square
    x = turned(MANY_ROWS, np.arange(1.0, 5.0) ** -0.5, rng)
    most = dropout_sgd.stability_limits(x, one.keep_prob, one.placement).mean_square
    return one._replace(x=x, w=rng.standard_normal(4), rate=share * most)


def measured_risks(one: Sgd) -> dict[str, float]:
    """Risks in expectation over the noise in Y, by `dropout_sgd`."""
    run = dropout_sgd.trajectory(one.x, one.labels, one.keep_prob, one.rate, one.steps, one.placement, w_true=one.truth)
    return {"dropout": run.risk[-1], "its mean alone": run.risk_marginal[-1], "without": run.risk_plain[-1]}


class Tiny(NamedTuple):
    """X (N×D), Y (N×C), what is trained from zero, the keep probability, l, a number of steps, and the masks' place.

    A (r×D) is where A starts, with B = 0 and W = AᵀBᵀ; None where W is trained directly. By plain SGD or by Adam.
    """

    x: np.ndarray
    y: np.ndarray
    a: np.ndarray | None
    keep_prob: float
    rate: float
    steps: int
    placement: str
    optimizer: str = "SGD"


def all_masks(one: Tiny) -> tuple[np.ndarray, np.ndarray]:
    """Every mask of a step, (masks × N × columns), and their probabilities."""
    shape = one.y.shape if one.placement == "output" else one.x.shape
    kept = np.array(list(itertools.product((0, 1), repeat=int(np.prod(shape)))), dtype=float)
    number, p = kept.sum(axis=1), one.keep_prob
    return kept.reshape(-1, *shape) / p, p**number * (1 - p) ** (kept.shape[1] - number)


def masked_gradient(one: Tiny, w: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """∂‖Y − masked XW‖²/∂W for each W (… × D × C) and each mask."""
    if one.placement == "output":
        return 2 * one.x.T @ (masks * ((one.x @ w) * masks - one.y))
    masked = one.x * masks
    return np.swapaxes(masked, -1, -2) @ (2 * (masked @ w - one.y))


def slopes(one: Tiny, state: tuple[np.ndarray, ...], gradient: np.ndarray) -> tuple[np.ndarray, ...]:
    """∂/∂W, or ∂/∂A and ∂/∂B by the chain rule."""
    if one.a is None:
        return (gradient,)
    turned_gradient = np.swapaxes(gradient, -1, -2)  # C×D, as BA
    return np.swapaxes(state[1], -1, -2) @ turned_gradient, turned_gradient @ np.swapaxes(state[0], -1, -2)


def moved(one: Tiny, state: tuple[np.ndarray, ...], gradient: np.ndarray, step: int) -> tuple[np.ndarray, ...]:
    """What is trained one step on, the first being 1; behind it Adam's averages (β = 0.9 and 0.999, ε = 1e-8)."""
    found = slopes(one, state, gradient)
    n = len(found)
    if one.optimizer == "SGD":
        return tuple(part - one.rate * slope for part, slope in zip(state, found, strict=True))
    first = [0.9 * mean + 0.1 * slope for mean, slope in zip(state[n : 2 * n], found, strict=True)]
    second = [0.999 * square + 0.001 * slope**2 for square, slope in zip(state[2 * n :], found, strict=True)]
    parts = [
        part - one.rate * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
        for part, mean, square in zip(state[:n], first, second, strict=True)
    ]
    return (*parts, *first, *second)


def product(one: Tiny, state: tuple[np.ndarray, ...]) -> np.ndarray:
    """W."""
    return state[0] if one.a is None else np.swapaxes(state[1] @ state[0], -1, -2)


def start(one: Tiny) -> tuple[np.ndarray, ...]:
    """W = 0, by itself or with A at random and B = 0; behind it Adam's averages."""
    d, c = one.x.shape[1], one.y.shape[1]
    parts = (np.zeros((d, c)),) if one.a is None else (one.a, np.zeros((c, len(one.a))))
    return parts if one.optimizer == "SGD" else (*parts, *map(np.zeros_like, parts * 2))


def every_sequence(one: Tiny) -> tuple[np.ndarray, np.ndarray]:
    """W_t after `steps` by sequence of masks, and the sequences' probabilities."""
    masks, chance = all_masks(one)
    state, weight = tuple(part[None] for part in start(one)), np.ones(1)
    for step in range(1, one.steps + 1):
        wide = tuple(part[:, None] for part in state)
        following = moved(one, wide, masked_gradient(one, product(one, wide), masks), step)
        shape = (len(weight), len(chance))
        state = tuple(np.broadcast_to(part, shape + part.shape[2:]).reshape(-1, *part.shape[2:]) for part in following)
        weight = np.multiply.outer(weight, chance).ravel()
    return product(one, state), weight


def enumerated_mean(one: Tiny) -> np.ndarray:
    """E W_t after `steps`, over every sequence of masks."""
    found, chance = every_sequence(one)
    return np.tensordot(chance, found, 1)


def enumerated_variance(one: Tiny) -> float:
    """Tr Cov W_t after `steps`, over every sequence of masks."""
    found, chance = every_sequence(one)
    return float(chance @ np.sum((found - np.tensordot(chance, found, 1)) ** 2, axis=(1, 2)))


def regularised_descent(one: Tiny) -> np.ndarray:
    """W_t of the optimizer, on W or on A and B, on ‖Y − XW‖² + k‖XW‖² (output) or k‖diag(S)^{1/2}W‖² (input)."""
    gram, pull = one.x.T @ one.x, one.x.T @ one.y
    k, state = (1 - one.keep_prob) / one.keep_prob, start(one)
    curvature = gram + k * (gram if one.placement == "output" else np.diag(np.diag(gram)))
    for step in range(1, one.steps + 1):
        state = moved(one, state, 2 * (curvature @ product(one, state) - pull), step)
    return product(one, state)


def rank_8(rng: np.random.Generator, n: int, steps: int) -> Tiny:
    """LoRA's masks, n rows of 6/n inputs, two outputs, drop rate 0.05, Adam at 1e-4."""
    x, y, a = (rng.standard_normal(shape) for shape in ((n, 6 // n), (n, 2), (8, 6 // n)))
    return Tiny(x, y, a / math.sqrt(6 // n), PAPER_KEEP, 1e-4, steps, "input", "Adam")


def many_rows(rng: np.random.Generator) -> Tiny:
    """LoRA under Adam at 1e-4, 512 rows, 64 inputs, 16 outputs, noise half of the signal: too many masks to sum."""
    x, w, noise = rng.standard_normal((512, 64)), rng.standard_normal((64, 16)) / 8, rng.standard_normal((512, 16))
    return Tiny(x, x @ w + PAPER_NOISE * noise, rng.standard_normal((8, 64)) / 8, PAPER_KEEP, 1e-4, 2, "input", "Adam")


def many_rows_by_sgd(rng: np.random.Generator) -> Tiny:
    """The same for 60 steps of plain SGD at half of 1/λ, λ the curvature of the expected loss in A and B at B = 0."""
    one = many_rows(rng)
    steep = np.linalg.norm(one.x, 2) ** 2 / one.keep_prob * np.linalg.norm(one.a, 2) ** 2
    curvature = 2 * float(steep + np.linalg.norm(one.x.T @ one.y, 2))
    return one._replace(rate=0.5 / curvature, steps=60, optimizer="SGD")


def sampled_products(one: Tiny, draws: int, rng: np.random.Generator) -> np.ndarray:
    """W_t, or [BA]_t, of so many runs, each with its own masks."""
    state = tuple(np.broadcast_to(part, (draws, *part.shape)) for part in start(one))
    for step in range(1, one.steps + 1):
        shape = one.y.shape if one.placement == "output" else one.x.shape
        masks = (rng.random((draws, *shape)) < one.keep_prob) / one.keep_prob
        state = moved(one, state, masked_gradient(one, product(one, state), masks), step)
    return product(one, state)


def sampled_distance(one: Tiny, rng: np.random.Generator, draws: int = 60) -> float:
    """‖E W_t − the path on the regularized objective‖ over its norm, Frobenius, where masks are too many to sum over.

    The square is the product of two halves' deviations, so that the draws' own scatter adds nothing on average.
    """
    path = regularised_descent(one)
    halves = [sampled_products(one, draws // 2, rng).mean(axis=0) - path for _ in range(2)]
    return math.sqrt(max(float(np.sum(halves[0] * halves[1])), 0.0)) / float(np.linalg.norm(path))
