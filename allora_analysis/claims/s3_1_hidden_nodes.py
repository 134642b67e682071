"""Dropout on the hidden nodes of a two-layer network, beside Mori and Mignacco 2025 (arXiv:2505.07792).

They solve nonlinear two-layer networks that see each sample once, in high dimension: `dropout_sgd.online`, at short,
intermediate and long times. A and B train on fixed data at a small rate, masks in the bottleneck (§3.1's "latent
space"): what of their abstract is true there, judged where the flow ends and along descent. Checked by
`tests/test_claims_3_1_in_factors.py`, which plants wrong formulas.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from allora_analysis import dropout_sgd, tikhonov
from allora_analysis.claims.cases import OF_SIGNAL, PAPER_NOISE, Case, Cases, each_above
from allora_analysis.claims.claim import Evidence, Finding, Size, ranged
from allora_analysis.claims.s3_1_in_factors import DROPS, factors_claim
from allora_analysis.statistics import one_sided
from allora_analysis.study import signed


class Hidden(NamedTuple):
    """X (N×D), true weights (D×C), noise (draws × N × C) and A and B at random, of a linear two-layer network."""

    x: np.ndarray
    truth: np.ndarray
    noise: np.ndarray
    a: np.ndarray
    b: np.ndarray


MORI = "beyond the paper: abstract of Mori and Mignacco 2025 (arXiv:2505.07792)"
BESIDE = "beyond the paper: §3.1, a linear network on fixed data, beside Mori and Mignacco 2025 (arXiv:2505.07792)"
NOISES, GRID = (0.1, 0.5, 1.0, 2.0), np.linspace(0.0, 0.9, 10)
SAMPLES, MORE_SAMPLES, FINER = 24, 400, np.linspace(0.0, 0.9, 19)
SPREAD = 0.3  # deviation of the entries of A and B at the start: ‖BA‖ is half of the true weights' norm


def hidden(rng: np.random.Generator, rank: int | None = None, samples: int = SAMPLES) -> Hidden:
    """Four hidden nodes, a teacher with a signal of 1, of this rank, or of 1 or 4."""
    teacher_rank = int(rng.choice([1, 4])) if rank is None else rank
    truth = rng.standard_normal((8, teacher_rank)) @ rng.standard_normal((teacher_rank, 4))
    start = SPREAD * rng.standard_normal((4, 8)), SPREAD * rng.standard_normal((4, 4))
    return Hidden(
        rng.standard_normal((samples, 8)),
        2 * truth / np.linalg.norm(truth),
        rng.standard_normal((8, samples, 4)),
        *start,
    )


def best_rates(
    one: Hidden,
    solve: Callable[[np.ndarray, float, int], np.ndarray],
    levels: Sequence[float] = NOISES,
    grid: np.ndarray = GRID,
) -> list[float]:
    """By noise, the drop rate on the hidden nodes of least risk after long training, on average over noise in Y."""
    left, inverse, found = one.x @ one.truth, np.linalg.pinv(one.x), []
    for level in levels:
        fits = [one.x @ (inverse @ (left + level * noise)) for noise in one.noise]
        risks = [np.mean([np.sum((inverse @ solve(fit, 1 - q, 4) - one.truth) ** 2) for fit in fits]) for q in grid]
        found.append(float(grid[int(np.argmin(risks))]))
    return found


def at_samples(rng: np.random.Generator, samples: int, level: float = 1.0) -> np.ndarray:
    """The best drop rates at one noise on so many samples, by the teacher's rank, 1 or 4, and draw (2×4)."""
    return np.array(
        [
            [best_rates(hidden(rng, rank, samples), tikhonov.bottleneck_solution, (level,), FINER)[0] for _ in range(4)]
            for rank in (1, 4)
        ]
    )


def thresholded(fit: np.ndarray, keep_prob: float, rank: int) -> np.ndarray:
    """The fit's r largest singular values less τ, the root of rτ = kΣ(σ − τ)₊, by bisection."""
    left, values, right = np.linalg.svd(fit, full_matrices=False)
    values = np.where(np.arange(len(values)) < rank, values, 0.0)
    low, high, k, each = 0.0, float(values[0]), (1 - keep_prob) / keep_prob, values.tolist()
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if rank * middle < k * sum(max(s - middle, 0) for s in each) else (low, middle)
    return (left * np.maximum(values - high, 0)) @ right


@factors_claim(
    "3.1-hidden-dropout-noise",
    where=BESIDE,
    says="In a linear network on fixed data the best drop rate rises with the noise in the data.",
    reading="Long training of a linear two-layer network at a small rate on fixed data, masks on the hidden nodes: "
    f"where the flow ends, which is a soft threshold; {SAMPLES} samples, eight inputs, four hidden nodes and outputs. "
    "Theirs is not linear, and sees each sample once.",
    depends_on=("3.1-sgd-small-rate",),
)
def hidden_noise(cases: Cases) -> Finding:
    """The best drop rates by noise, from a tenth to two of the signal."""
    judged = cases.judge(
        cases.draw(hidden, 5),
        measure=lambda one: best_rates(one, tikhonov.bottleneck_solution),
        printed=lambda one, seen: bool(
            np.all(np.diff(seen) >= 0) and seen[-1] > seen[0] and seen == best_rates(one, thresholded)
        ),
    )
    few, more = (at_samples(cases.rng, samples) for samples in (SAMPLES, MORE_SAMPLES))
    of_rank_1, of_rank_4 = (
        " and ".join(f"{rates.mean():.2g}" for rates in pair) for pair in zip(few, more, strict=True)
    )
    low = at_samples(cases.rng, SAMPLES, NOISES[0]).mean(axis=1)
    first, last = np.mean(judged.measured, axis=0)[[0, -1]]
    return judged.finding(
        holds=f"Yes: the best drop rate rises from {first:.2g} to {last:.2g} as noise goes from {NOISES[0]:g} to "
        f"{NOISES[-1]:g} of the signal.",
        evidence=judged.evidence(
            "the order of the best on a grid of ten drop rates",
            {"noise": NOISES},
            more={f"at noise as large as the signal, {MORE_SAMPLES} samples, by the teacher's rank": more},
            n=8,
        ),
        size=ranged(
            few.ravel().tolist(),
            "",
            f"best drop rate on {SAMPLES} samples at noise as large as the signal; on {MORE_SAMPLES} {more.mean():.2g} "
            f"(range: {more.min():.2g} to {more.max():.2g}); {of_rank_1} with a teacher of rank 1, {of_rank_4} "
            f"of rank 4. At a tenth of that noise, {SAMPLES} samples, {low[0]:.1g} and {low[1]:.1g}",
            float(few.mean()),
        ),
        flips_if="a problem in which more noise wants less dropout",
    )


def correlations(problems: Sequence[Hidden], drop_rate: float) -> np.ndarray:
    """By problem the mean |cos| between hidden nodes over the data, at a third of descent on the expected loss and at
    its end.
    """
    x, a, b = (np.stack([getattr(one, name) for one in problems]) for name in ("x", "a", "b"))
    y = np.stack([one.x @ one.truth + PAPER_NOISE * one.noise[0] for one in problems])
    k, gram, steps, found = drop_rate / (1 - drop_rate), _turned(x) @ x, 1500, []
    for step in range(steps + 1):
        z = x @ _turned(a)
        if step in (steps // 3, steps):
            unit = z / np.linalg.norm(z, axis=1, keepdims=True)
            found.append(np.abs((_turned(unit) @ unit)[:, *np.triu_indices(a.shape[1], 1)]).mean(axis=1))
        slope = 2 * (_turned(x) @ (z @ _turned(b) - y))
        both = np.sum(b**2, axis=1), np.sum(z**2, axis=1)
        a, b = (
            a - 1e-3 * (_turned(slope @ b) + 2 * k * both[0][:, :, None] * (a @ gram)),
            b - 1e-3 * (_turned(a @ slope) + 2 * k * b * both[1][:, None]),
        )
    return np.stack(found, axis=1)


def _turned(of: np.ndarray) -> np.ndarray:
    return np.swapaxes(of, 1, 2)


def added(problems: Sequence[Hidden], drop_rates: Sequence[float]) -> dict[float, np.ndarray]:
    """By drop rate what it adds to the mean |cos|, problems × times."""
    without = correlations(problems, 0.0)
    return {drop: correlations(problems, drop) - without for drop in drop_rates}


def told_change(values: np.ndarray) -> str:
    """A mean change with its interval."""
    one = one_sided(values, "t")
    low, high = (signed(end, 2) for end in one.interval)
    return f"{signed(one.mean, 2)} ({low} to {high})"


@factors_claim(
    "3.1-hidden-dropout-correlations",
    where=BESIDE,
    says="In a linear network on fixed data, from a start half the teacher's size, dropout lowers the correlations "
    "between hidden nodes.",
    reading="The mean |cos| between the hidden nodes of a linear two-layer network on fixed data, noise "
    f"{OF_SIGNAL}, drop rates {', '.join(map(str, DROPS))} on the nodes, 500 and 1,500 steps of 1e-3 after A and B at "
    f"random with entries of deviation {SPREAD}, with which ‖BA‖ is half of the true weights' norm. From entries of 1, "
    "‖BA‖ 5.6 times theirs, it depends on drop rate, teacher and time: the size has the lowest rate. Narrowed once, "
    "from any start. Theirs is not linear, and sees each sample once.",
    depends_on=("3.1-hidden-dropout-noise",),
)
def hidden_correlations(cases: Cases) -> Finding:
    """What dropout takes off by problem, at each drop rate midway and at the end; a larger start beside it."""
    drawn = [hidden(cases.rng, rank) for rank in (1, 4) for _ in range(24)]
    by_rate, times = added(drawn, DROPS), ("midway", "at the end")
    gaps = {f"{drop}, {time}": -of[:, i] for drop, of in by_rate.items() for i, time in enumerate(times)}
    tested, end = cases.test(gaps, each_above), one_sided(by_rate[DROPS[-1]][:, 1], "t")
    larger = added([one._replace(a=one.a / SPREAD, b=one.b / SPREAD) for one in drawn], DROPS[:1])[DROPS[0]]
    one, full = by_rate[DROPS[-1]][:, 1].reshape(2, -1).mean(axis=1)
    low, middle = (f"{of[:, 1].mean():+.2f}" for of in list(by_rate.values())[:-1])
    may = "; from larger 0.05 lowers them" * (one_sided(larger[:, 0], "t").interval[1] < 0)
    return tested.finding(
        refuted=f"No, from starts of that size it raises them: {low} (drop rate {DROPS[0]}), {end.mean:+.2f} "
        f"({DROPS[-1]}){may}.",
        holds=f"Yes: by {-end.mean:.2f} at the end.",
        evidence=Evidence(
            {"without less with dropout": "above 0"},
            {"added to the mean |cos|, midway and at the end": {str(k): v.mean(axis=0) for k, v in by_rate.items()}},
            f"Student's t over {len(drawn)} problems, one-sided at 0.05, Holm over rates and times; interval: 90 %",
            n=len(drawn),
            seed=cases.seed,
        ),
        size=Size(
            end.mean,
            "",
            f"what drop rate {DROPS[-1]} adds to the mean |cos| at the end, over teachers of rank 1 ({one:.2f}) and 4 "
            f"({full:.2f}); {DROPS[0]} adds {low}, {DROPS[1]} {middle}. From entries of 1, {DROPS[0]} adds "
            f"{told_change(larger[:, 0])} midway, {told_change(larger[:, 1])} at the end",
            *end.interval,
        ),
        wanted="more problems",
        flips_if="a mean |cos| that is lower with dropout at every rate, midway and at the end",
    )


class Nodes(NamedTuple):
    """Two student nodes that start at `start` (a square root of Q), a rate, masks scaled by 1/p or not, a time.

    Times are α = steps/N; `times` are all that one run is followed to, `time` is the one of them that is looked at.
    """

    start: tuple[tuple[float, float], ...]
    rate: float
    inverted: bool
    times: tuple[float, ...]
    time: float = 0.0


BANDS = {False: ((0.5, 10.0), (40.0, 100.0)), True: ((0.5, 3.0), (5.0, 9.0), (20.0, 100.0))}  # of α, by `inverted`
ENDS = tuple(sorted({end for bands in BANDS.values() for band in bands for end in band}))
LOOKED_AT = tuple(sorted({*np.geomspace(0.5, 100, 40).round(3).tolist(), *ENDS, 30.0}))
KINDS = {False: "unscaled", True: "scaled"}
ONLINE_NOISES, KEPT = (0.0, 0.6, 1.0), (1.0, 0.9, 0.7, 0.5)
RATES = (0.05, 0.2, 0.3, 1.0)


@functools.lru_cache(maxsize=256)
def learnt(one: Nodes, keep_prob: float, noise: float) -> dropout_sgd.Online:
    """One teacher node learned by the student's two, at every one of the times."""
    start, readout = np.array(one.start), 1 / keep_prob if one.inverted else 1.0
    q, none, alone = start @ start.T, np.zeros((2, 1)), np.eye(1)
    return dropout_sgd.online_curve(q, none, alone, keep_prob, one.rate, [*one.times], noise=noise, readout=readout)


def by_noise(one: Nodes) -> dict[str, list[float]]:
    """Best drop rates, what they take off the error without dropout, and the nodes' |cos| without and with p = 0.7."""
    whole, at = one._replace(time=0.0), one.times.index(one.time)
    runs = [[learnt(whole, keep_prob, noise) for keep_prob in KEPT] for noise in ONLINE_NOISES]
    errors = np.array([[run.error[at] for run in row] for row in runs])
    none, some = ([float(row[kept].correlation[at]) for row in runs] for kept in (0, 2))
    gains = 1 - errors.min(axis=1) / errors[:, 0]
    best = [1 - KEPT[kept] for kept in errors.argmin(axis=1)]
    return {"best drop rate": best, "gain": list(gains), "|cos| without": none, "|cos| at 0.3": some}


def at_best_rates(start: tuple[tuple[float, float], ...]) -> list[float]:
    """What dropout takes off the error at noise 0.6 at each of the `ENDS`, with masks and without at the best rate."""
    runs = [[learnt(Nodes(start, rate, False, ENDS), kept, 0.6).error for rate in RATES] for kept in KEPT]
    least = np.array(runs).min(axis=1)
    return list(1 - least[1:].min(axis=0) / least[0])


def as_they_say(one: Nodes, seen: dict[str, list[float]]) -> bool:
    """Nodes less alike at every noise; a gain at the two larger noises; a best drop rate that rises with noise."""
    best = seen["best drop rate"]
    alike = np.less(seen["|cos| at 0.3"], seen["|cos| without"])
    return bool(alike.all() and min(seen["gain"][1:]) > 0.01 and (np.diff(best) >= 0).all() and best[-1] > best[0])


START = ((0.01, 0.0), (0.004, 0.008))


def drawn(rng: np.random.Generator, band: tuple[float, float], inverted: bool) -> Case:
    """A time in a band, a rate from 1 to 1.2, and a start near 0."""
    start = tuple(tuple(row) for row in 0.01 * rng.standard_normal((2, 2)))
    time = float(np.exp(rng.uniform(*np.log(band))))
    one = Nodes(start, float(rng.uniform(1.0, 1.2)), inverted, (time,), time)
    return Case("α drawn from {:g} to {:g}, masks {}".format(*band, KINDS[inverted]), one)


def true_at(one: Nodes) -> list[bool]:
    """At each of the times whether all three are true."""
    return [as_they_say(at, by_noise(at)) for at in (one._replace(time=time) for time in one.times)]


def over_times(followed: dict[bool, Nodes]) -> tuple[dict[str, Any], dict[str, float]]:
    """What stands beside the cases, and in how many % of the times all three are true."""
    true = {kind: true_at(followed[inverted]) for inverted, kind in KINDS.items()}
    at = {kind: [time for time, of in zip(LOOKED_AT, hits, strict=True) if of] for kind, hits in true.items()}
    gains = [by_noise(followed[False]._replace(time=end))["gain"][1] for end in ENDS]
    told = {
        "beside, at α = 30, unscaled, rate 1: nodes more alike with dropout": by_noise(
            followed[False]._replace(time=30.0)
        ),
        "α at rate 1 at which all three are true, masks scaled": at["scaled"],
        "α at rate 1 at which they are not, masks unscaled": [t for t in LOOKED_AT if t not in at["unscaled"]],
        "gain at noise 0.6, unscaled, rate 1, by α": dict(zip(ENDS, gains, strict=True)),
        f"the same, each drop rate at its best of rates {RATES}": dict(zip(ENDS, at_best_rates(START), strict=True)),
    }
    return told, {kind: 100 * float(np.mean(hits)) for kind, hits in true.items()}


@factors_claim(
    "3.1-hidden-dropout-online",
    where=MORI,
    says="dropout reduces detrimental correlations between hidden nodes, mitigates the impact of label noise, and that "
    "the optimal dropout probability increases with the level of noise in the data",
    reading="By equations of their kind: two erf nodes learn one, each sample seen once, α = steps/N from 0.5 to 100, "
    "at rates from 1 to 1.2; masks unscaled, as in the code of their later paper, or scaled by 1/p as PyTorch's. Left "
    "out are α at which start and rate decide, too: 10 to 40 for unscaled masks, 3 to 5 and 9 to 20 for scaled ones, "
    "ends of ours, set after looking at 64 starts; the size counts them. At a rate of 0.94 scaled ones gain less than "
    "1 % at α = 5; at 0.2 no masks gain early.",
    depends_on=("3.1-hidden-dropout-correlations",),
)
def hidden_online(cases: Cases) -> Finding:
    """Starts near 0, rates from 1, masks of both kinds; not 0 itself, where without masks nodes could not part.

    Unscaled masks are those of the code of Mori and Mignacco's later paper (arXiv 2507.07907), the test's output p
    times the nodes'.
    """
    followed = {inverted: Nodes(START, 1.0, inverted, LOOKED_AT) for inverted in KINDS}
    known = [
        Case(f"α = {end:g}, masks {kind}", followed[inverted]._replace(time=end))
        for inverted, kind in KINDS.items()
        for band in BANDS[inverted]
        for end in band
    ]
    judged = cases.judge(
        known + [drawn(cases.rng, band, inverted) for inverted, bands in BANDS.items() for band in bands],
        by_noise,
        printed=as_they_say,
        condition=lambda one: not one.inverted or BANDS[True][1][0] <= one.time <= BANDS[True][1][1],
    )
    more, often = over_times(followed)
    false = more["α at rate 1 at which they are not, masks unscaled"]
    return judged.finding(
        conditional="Only at learning rates near 1, at intermediate times; with masks not scaled by 1/p mostly early "
        "and late, too.",
        evidence=judged.evidence(
            "none: the order of the best on a grid, a gain of 1 %, and the order of two cosines",
            {"noise": ONLINE_NOISES, "drop rates": [1 - keep_prob for keep_prob in KEPT]},
            more=more,
        ),
        size=Size(
            often["unscaled"],
            f"% of {len(LOOKED_AT)} times",
            f"from α = 0.5 to 100 at rate 1 at which all three are true, masks unscaled; {often['scaled']:.0f} % with "
            f"masks scaled; with unscaled ones false at {min(false, default=0):.0f} to {max(false, default=0):.0f}",
        ),
        condition="of α from 0.5 to 100 but for those left out, at rates from 1 to 1.2: masks are not scaled by 1/p, "
        "or α is from 5 to 9; else dropout gains less than 1 % or makes nodes more alike",
        flips_if="at such a rate, scaled masks of which all three are true at α up to 3 or from 20 on, or of which one "
        "is not from 5 to 9, or unscaled ones of which one is not up to 10 or from 40 on",
    )
