"""§3.1, "a stochastic regularization that will not converge": the weights' noise, beside what dropout adds to the mean.

The model and its symbols are `masked_descent`'s. Judged by `dropout_sgd`'s closed forms. Checked by
`tests/test_claims_3_1_few_steps.py`, which plants wrong formulas.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from allora_analysis import dropout_sgd
from allora_analysis.claims.cases import OF_SIGNAL, PAPER_KEEP, PAPER_NOISE, Case, Cases
from allora_analysis.claims.claim import Finding, Size, ranged
from allora_analysis.claims.masked_descent import (
    DROPOUT_GUIDE,
    EXACT,
    NOT_THE_PAPERS,
    PLACEMENTS,
    TOLERANCE,
    Sgd,
    falling_spectra,
    moments,
    pulls,
    row_masks,
    sgd_claim,
    turned,
)
from allora_analysis.claims.s3_1_tikhonov import on_both_sides


class Run(NamedTuple):
    """X, Y (N×1), the keep probability, the masks' place, and what is asked to converge.

    Times are counted in τ = 1/(ls²), s the least singular value of X: the slowest direction's own.
    """

    x: np.ndarray
    y: np.ndarray
    keep_prob: float
    placement: str
    what: str

    @property
    def rate(self) -> float:
        """The learning rate l, half of the largest at which Cov W_t stays bounded."""
        return 0.5 * dropout_sgd.stability_limits(self.x, self.keep_prob, self.placement).mean_square

    @property
    def slowest(self) -> float:
        """τ."""
        return float(1 / (self.rate * np.linalg.svd(self.x, compute_uv=False)[-1] ** 2))


EARLY, LATE, KEPT = 6, 24, 0.75
KINDS = (
    "last iterate, constant rate",
    "last iterate, rate l/√(1 + t/τ)",
    "average, constant rate",
    "last iterate, rate l/(1 + t)²",
)


def noisy_at_the_optimum(one: Run) -> bool:
    """Whether a row's masked gradient u(Y − uW) varies with its mask where the regularized objective is least."""
    gram, k = one.x.T @ one.x, (1 - one.keep_prob) / one.keep_prob
    curvature = gram + k * (gram if one.placement == "output" else np.diag(np.diag(gram)))
    u, _ = row_masks(one.x, one.keep_prob, one.placement)
    slopes = u * (one.y[:, None, :] - u @ np.linalg.solve(curvature, one.x.T @ one.y))
    return bool(np.abs(slopes - slopes[:, :1]).max() > TOLERANCE * np.abs(one.x).max() * np.abs(one.y).max())


def traces(one: Run) -> dict[str, float]:
    """Tr Cov early and late, where it should end up, and the same times t for the average."""
    rate, early = one.rate, math.ceil(EARLY * one.slowest)
    late = LATE // EARLY * early
    steps = np.arange(late)
    rates = {KINDS[1]: rate / np.sqrt(1 + steps / one.slowest), KINDS[3]: rate / (1 + steps) ** 2}.get(one.what, rate)
    run = dropout_sgd.trajectory(one.x, one.y, one.keep_prob, rates, late, one.placement)
    trace = run.average_covariance_trace if one.what == KINDS[2] else run.covariance_trace
    rest = dropout_sgd.stationary_moments(one.x, one.y, one.keep_prob, rate, one.placement)
    seen = {"early": trace[early], "late": trace[late], "limit": rest.covariance_trace}
    # t·tr Cov of the average is its limit + c/t + what dies out exponentially: c/t cancels between t and t/2.
    seen["t·tr Cov"] = 2 * late * trace[late] - late // 2 * trace[late // 2]
    return {name: float(value) for name, value in seen.items()} | {"rate": rest.average_covariance_rate}


def ends_where_told(one: Run, seen: dict[str, float]) -> bool:
    """Whether the last trace is the limit that equations of its own give."""
    if one.what == KINDS[0]:
        return abs(seen["late"] - seen["limit"]) <= 1e-6 * max(seen["limit"], 1e-6)
    return one.what != KINDS[2] or abs(seen["t·tr Cov"] - seen["rate"]) <= 1e-6 * max(seen["rate"], 1e-6)


def spread_run(
    rng: np.random.Generator, what: str, placement: str, keep_prob: float, noise: float, spread: float = 2.0
) -> Run:
    """A regression whose largest singular value is `spread` times its least, which is the slowest to settle."""
    x = turned(8, np.geomspace(1, 1 / spread, 3), rng)
    return Run(x, x @ rng.standard_normal((3, 1)) + noise * rng.standard_normal((8, 1)), keep_prob, placement, what)


def any_run(rng: np.random.Generator) -> Run:
    """Any of the four, with noise in Y and without, on spectra up to threefold."""
    what, place = str(rng.choice(KINDS, p=[0.4, 0.2, 0.2, 0.2])), str(rng.choice(PLACEMENTS))
    noise, spread = float(rng.choice([0.0, 0.001, 0.01, 1.0])), float(rng.choice([1.2, 2.0, 3.0]))
    return spread_run(rng, what, place, float(rng.choice([0.8, 0.95])), noise, spread)


def _at_rest(one: Run) -> float:
    rest = dropout_sgd.stationary_moments(one.x, one.y, one.keep_prob, one.rate, one.placement)
    return 100 * math.sqrt(rest.covariance_trace) / float(np.linalg.norm(one.y))


def at_half(rng: np.random.Generator, placement: str) -> list[float]:
    """`_at_rest` at drop rate 0.05 and noise half of the signal, twenty draws."""
    runs = [spread_run(rng, KINDS[0], placement, PAPER_KEEP, 0.0) for _ in range(20)]
    noises = [rng.standard_normal(one.y.shape) * np.linalg.norm(one.y) / math.sqrt(one.y.size) for one in runs]
    return [_at_rest(one._replace(y=one.y + PAPER_NOISE * noise)) for one, noise in zip(runs, noises, strict=True)]


def with_unseen_row(one: Run) -> Run:
    """With a row of X that is 0 and whose label is 3."""
    return one._replace(x=np.vstack([one.x, np.zeros_like(one.x[:1])]), y=np.vstack([one.y, [[3.0]]]))


def one_feature(rng: np.random.Generator) -> Run:
    """D = 1."""
    x = rng.standard_normal((8, 1))
    return Run(x, x + 0.5 * rng.standard_normal((8, 1)), 0.8, "input", KINDS[0])


def a_feature_a_row(rng: np.random.Generator) -> Run:
    """Every row has one input that is not 0, and Y = XX⁺Y: a mask strikes all of a row or nothing."""
    x = np.vstack([np.diag([1.0, 0.8, 0.6])] * 2)
    return Run(x, x @ rng.standard_normal((3, 1)), 0.8, "input", KINDS[0])


@sgd_claim(
    "3.1-sgd-convergence",
    where="§3.1, title",
    says="FIRST FLAW: A STOCHASTIC REGULARIZATION THAT WILL NOT CONVERGE",
    reading="A less kind reading: in the long run, under plain SGD; within few steps, as §3.1 means it, row "
    f"3.1-sgd-reliable has it. Here tr Cov W_t at {LATE}τ is above {KEPT:g} of that at {EARLY}τ, τ = 1/(ls²) steps "
    "with s the least singular value of X and l half of the largest rate at which Cov W_t stays bounded; it is 1, a "
    "half and a quarter of it for the last iterate, a rate as 1/√t, and the average. With rates of finite sum, "
    "l/(1 + t)² here, weights come to rest, at random places. A rate that falls linearly to 0 in T steps, Trainer's "
    "default, is none of these; its covariance falls as 1/√T. Noise in Y is 0 or at least about a thousandth of the "
    "signal: less would show only later. " + NOT_THE_PAPERS,
)
def convergence(cases: Cases) -> Finding:
    """The trace of Cov W_t at a constant rate, at falling rates, of the average, and with and without noise in Y."""
    usual = [
        Case(f"{what}, {place} masks, p = {keep_prob:g}", spread_run(cases.rng, what, place, keep_prob, 0.5))
        for what, keep_prob in zip(KINDS, (PAPER_KEEP, 0.8, 0.8, 0.8), strict=True)
        for place in PLACEMENTS
    ]
    judged = cases.judge(
        [
            *usual,
            Case("no noise in Y", exact := spread_run(cases.rng, KINDS[0], "output", 0.8, 0.0)),
            Case("no noise in Y but in a row that X does not see", with_unseen_row(exact)),
            Case("input masks, one feature, noise in Y", one_feature(cases.rng)),
            Case("input masks, a feature a row, no noise in Y", a_feature_a_row(cases.rng)),
            *cases.draw(any_run, 6),
        ],
        measure=traces,
        printed=lambda one, seen: seen["late"] > max(KEPT * seen["early"], 1e-20 * float(np.sum(one.y**2))),
        corrected=ends_where_told,
        condition=lambda one: one.what == KINDS[3] or (one.what == KINDS[0] and noisy_at_the_optimum(one)),
    )
    return judged.finding(
        conditional="Only at a constant rate, or one falling too fast, does it not settle; at 1/√t, or averaged, it "
        "does.",
        evidence=judged.evidence("float64 rounding and CG's; the limits solve equations of their own", tolerance=1e-6),
        size=ranged(
            at_half(cases.rng, "input"),
            "% of ‖Y‖",
            "the weights' standard deviation in the long run, masks on the input, as LoRA's, drop rate 0.05, half the "
            f"largest rate, 8 rows of 3 inputs, singular values from 0.5 to 1, noise {OF_SIGNAL} (masks on the "
            f"output: {np.median(at_half(cases.rng, 'output')):.1f} %, 0 without noise)",
        ),
        corrected="at a constant rate below the mean-square limit E W_t converges to the regularized optimum and "
        "Cov W_t to a limit, which is 0 only where masked gradients do not vary at that optimum",
        condition="the last iterate; and a constant rate with masked gradients that vary at the regularized optimum "
        "(masks on the output: some row has X_n ≠ 0 and (Y − XX⁺Y)_n ≠ 0), or rates of finite sum",
        flips_if="a last iterate at a constant rate whose covariance vanishes though masked gradients vary at the "
        "optimum, or an average's that stays",
    )


FEW, HIGHEST = 10, 0.2


class Labelled(NamedTuple):
    """A setting and its labels Y, one column with noise in it."""

    of: Sgd
    y: np.ndarray


def labelled(one: Sgd, rng: np.random.Generator) -> Labelled:
    """Labels with noise."""
    return Labelled(one, one.x @ one.w[:, None] + one.noise * rng.standard_normal((len(one.x), 1)))


def added_over_spread(one: Labelled) -> np.ndarray:
    """‖what dropout adds to E W_t‖/√tr Cov W_t at t = 1, …, T, from moments summed over masks."""
    masked, plain = (moments(one.of, one.y, p) for p in (one.of.keep_prob, 1.0))
    return np.linalg.norm(masked.mean - plain.mean, axis=(1, 2))[1:] / masked.spread[1:]


def step_noise(one: Labelled, mean: np.ndarray) -> np.ndarray:
    """Q, the covariance over masks of X̃ᵀ(Y − X̃W) at a given W (D × D)."""
    u, chance = row_masks(one.of.x, one.of.keep_prob, one.of.placement)
    slopes = u * (one.y[:, None, :] - u @ mean)
    centred = slopes - np.einsum("m,nmd->nd", chance, slopes)[:, None]
    return np.einsum("m,nmd,nme->de", chance, centred, centred)


def noise_over_bias_early(one: Labelled) -> float:
    """The least √tr Γ_t/‖E W_t − W_t without masks‖ up to step `FEW`, with Γ_{t+1} = FΓ_tF + 4l²Q_t, F = I − 2lH.

    Q_t is `step_noise` at E W_t: what masks do to deviations from E W_t is left out, of the next order in l.
    """
    gram, _, curvature = pulls(one.of)
    pull, rate, least = one.of.x.T @ one.y, one.of.rate, math.inf
    mean, plain, covariance = np.zeros_like(pull), np.zeros_like(pull), np.zeros_like(gram)
    forward = np.eye(len(gram)) - 2 * rate * curvature
    for _ in range(FEW):
        covariance = forward @ covariance @ forward + 4 * rate**2 * step_noise(one, mean)
        mean, plain = forward @ mean + 2 * rate * pull, plain + 2 * rate * (pull - gram @ plain)
        bias = float(np.linalg.norm(mean - plain))
        least = min(least, math.sqrt(np.trace(covariance)) / bias if bias else math.inf)
    return least


def bias_over_noise_late(one: Labelled) -> float:
    """‖W̄ − X⁺Y‖/√tr Γ of the limit, W̄ = H⁺XᵀY: Γ = FΓF + 4l²Q has the trace l tr (H − lH²)⁺Q, Q at W̄."""
    x, curvature, rate = one.of.x, pulls(one.of)[2], one.of.rate
    mean = np.linalg.lstsq(curvature, x.T @ one.y, 1e-10)[0]
    trace = np.trace(np.linalg.lstsq(curvature - rate * curvature @ curvature, step_noise(one, mean), 1e-10)[0])
    return float(np.linalg.norm(mean - np.linalg.lstsq(x, one.y, rcond=None)[0]) / np.sqrt(rate * trace))


def early_and_late(one: Labelled) -> float:
    """Above 1 where noise outweighs bias early and bias outweighs noise late."""
    return min(noise_over_bias_early(one), bias_over_noise_late(one))


def at_any_rate(rng: np.random.Generator) -> tuple[Sgd, np.ndarray]:
    """2 to 30 rows at 0.01 to 0.2 of the largest rate, and a column of noise as long as the signal."""
    d = int(rng.integers(1, 5))
    x = turned(d + int(rng.choice([1, 4, 25])), np.geomspace(1, 1 / float(rng.choice([1.5, 3.0])), d), rng)
    w, noise, place = rng.standard_normal(d), rng.standard_normal((len(x), 1)), str(rng.choice(PLACEMENTS))
    of = Sgd(x, w, 0.0, float(rng.choice([0.5, 0.8, PAPER_KEEP])), 1.0, FEW, place)
    most = dropout_sgd.stability_limits(x, of.keep_prob, place).mean_square
    of = of._replace(rate=most * HIGHEST * float(20 ** -rng.random()))
    return of, noise * np.linalg.norm(x @ w) / np.linalg.norm(noise)


def noise_outside(rng: np.random.Generator) -> Labelled:
    """Noise in Y − XX⁺Y alone, X⁺Y being the true weights: little, or as much as settles the limit."""
    of, noise = at_any_rate(rng)
    signal = (of.x @ of.w)[:, None]
    noise -= of.x @ np.linalg.lstsq(of.x, noise, rcond=None)[0]
    noise *= np.linalg.norm(signal) / np.linalg.norm(noise)
    level = float(10 ** rng.uniform(-1, 0))
    if rng.random() < 0.3:
        level = 30 * bias_over_noise_late(Labelled(of, signal + 30 * noise)) * 2 ** rng.uniform(-1, 1)
    return Labelled(of, signal + level * noise)


def noise_in_the_fit(rng: np.random.Generator) -> Labelled:
    """Noise in X⁺Y, too: little, or 30 times the signal, mostly at a rate that settles the limit."""
    of, noise = at_any_rate(rng)
    signal = (of.x @ of.w)[:, None]
    if rng.random() < 0.25:
        return Labelled(of, signal + float(10 ** rng.uniform(-1, 0)) * noise)
    one = Labelled(of, signal + 30 * noise)
    wanted = bias_over_noise_late(one) ** 2 * 4 ** rng.uniform(-1, 1)  # of rates: it is about 1 over their root
    share = of.rate / dropout_sgd.stability_limits(of.x, of.keep_prob, of.placement).mean_square
    return one._replace(of=of._replace(rate=of.rate * min(wanted, HIGHEST / share)))


def at(one: Labelled, share: float, steps: int) -> Labelled:
    """At a share of the largest rate, where the setting is at a tenth of it, and for `steps` steps."""
    return one._replace(of=one.of._replace(rate=10 * share * one.of.rate, steps=steps))


LONG, RATES = 300, (0.02, 0.1, 0.5)  # steps; rates in units of the largest
ROWS = 512  # beside 8, for the size


def first_step(one: Labelled) -> float:
    """The first step at which what dropout adds to E W_t is at least the standard deviation; ∞ where none is."""
    outgrown = added_over_spread(one) >= 1
    return 1.0 + int(np.argmax(outgrown)) if outgrown.any() else math.inf


def first_steps(cases: Sequence[Case], rng: np.random.Generator) -> dict[str, dict[float, list[float]]]:
    """`first_step` of some settings by the masks' place and at each of the `RATES`."""
    drawn = [labelled(case.inputs, rng) for case in cases]
    return {
        place: {
            share: [first_step(at(one, share, LONG)) for one in drawn if one.of.placement == place] for share in RATES
        }
        for place in PLACEMENTS
    }


def quartiles(steps: Sequence[float]) -> list[float]:
    """Three of the steps given."""
    return [float(step) for step in np.quantile(steps, [0.25, 0.5, 0.75], method="nearest")]


def by_rate(first: dict[str, dict[float, list[float]]]) -> dict[str, dict[float, list[float]]]:
    """The `quartiles` of `first_steps`."""
    return {place: {share: quartiles(steps) for share, steps in of.items()} for place, of in first.items()}


def never(rng: np.random.Generator, rows: int, n: int) -> dict[float, dict[float, float]]:
    """The % of settings whose bias is below their noise in the limit, by noise over signal and share of the rate."""
    found = {}
    for noise in (0.0, 0.5, 3.0, 10.0):
        settings = [case.inputs for _ in range(n) for case in falling_spectra(rng, FEW, noise, rows=rows)]
        drawn = [labelled(one, rng) for one in settings]
        found[noise] = {
            share: 100 * float(np.mean([bias_over_noise_late(at(one, share, FEW)) < 1 for one in drawn]))
            for share in (RATES[0], HIGHEST)
        }
    return found


def in_steps(first: Sequence[float]) -> str:
    """Their median, or how many have none."""
    middle = quartiles(first)[1]
    return f"{middle:.0f}" if middle < math.inf else f"not within {LONG} in {100 * np.mean(np.isinf(first)):.0f} %"


def outgrown(first: dict[str, dict[float, list[float]]], many: dict[str, dict[float, list[float]]]) -> Size:
    """The size: of 8 rows, beside `ROWS`."""
    rest = "; ".join(f"{place} masks {', '.join(map(in_steps, of.values()))}" for place, of in first.items())
    low, middle, high = by_rate(first)["input"][RATES[1]]
    return Size(
        middle,
        "steps",
        f"until bias outgrows noise, LoRA's masks, 8 rows of 4 inputs, singular values exactly 1/√i, drop rate 0.05, "
        f"{RATES[1]:g} of the largest rate, noise {OF_SIGNAL}: median and quartiles "
        f"(at {', '.join(f'{share:g}' for share in RATES)} of it: {rest}; of {ROWS} rows at {RATES[1]:g} of it "
        f"{in_steps(many['input'][RATES[1]])})",
        low,
        high,
    )


def measured_signal(one: Labelled) -> dict[str, float]:
    """The same at its highest up to step 10, and in the limit, by `dropout_sgd`."""
    (x, *_), y, at = one.of, one.y, (one.of.rate, one.of.steps, one.of.placement)
    masked, plain = (dropout_sgd.trajectory(x, y, p, *at) for p in (one.of.keep_prob, 1.0))
    rest = dropout_sgd.stationary_moments(x, y, one.of.keep_prob, one.of.rate, one.of.placement)
    added = np.linalg.norm(masked.mean - plain.mean, axis=(1, 2))[1:]
    least = np.linalg.lstsq(x, y, rcond=None)[0]
    return {
        "most up to step 10": float(np.max(added / np.sqrt(masked.covariance_trace[1:]))),
        "limit": float(np.linalg.norm(rest.mean - least) / np.sqrt(rest.covariance_trace)),
    }


NOISE_THEN_BIAS = (
    f"few rows a step or low rates, so that noise leads up to step t = {FEW}, and, at that rate, so little noise of "
    "masks in the limit (of residuals Y − XX⁺Y and, on the input, of the fit itself) beside X⁺Y, to which noise in Y "
    "adds, too, that bias leads in the long run. To leading order in lt‖X‖²/p: l(t − 1)√(kt)·‖PXᵀY‖ < "
    "√(Σ_n Y_n²‖X_n‖²), so that at a fixed share of the largest rate the step at which bias outgrows noise falls as "
    f"(rows a step)^(−1/3). In formulas, judged: ‖E W_t − W_t without masks‖² < tr Γ_t for t = 1 … {FEW}, and ‖W̄ − "
    "X⁺Y‖² > l tr (H − lH²)⁺Q̄, where Γ_0 = 0, Γ_{t+1} = FΓ_tF + 4l²Q_t, F = I − 2lH, H = S + kP, P = S (masks on "
    "the output) or diag S (on the input), W̄ = H⁺XᵀY, E W_t = (I − Fᵗ)W̄, and Q_t or Q̄ is the covariance over "
    "masks of X̃ᵀ(Y − X̃W) at E W_t or W̄; as l → 0 the second is, with masks on the output, (1 − p)‖X⁺Y‖² > lΣ_n "
    "h_n(Y − XX⁺Y)_n²"
)


def noisy_and_not(rng: np.random.Generator) -> list[Case]:
    """Two settings at a low rate, and both kinds of noise near the boundary."""
    usual = [labelled(case.inputs, rng) for case in falling_spectra(rng, FEW)]
    outside, inside = (
        on_both_sides(rng, of, early_and_late, 6, margin=1.1) for of in (noise_outside, noise_in_the_fit)
    )
    return [
        *(Case(f"{one.of.placement} masks, p = 0.95", at(one, 0.02, FEW)) for one in usual),
        *outside,
        *(replace(case, name=f"noise in X⁺Y, too, {case.name}") for case in inside),
    ]


@sgd_claim(
    "3.1-sgd-reliable",
    where="Abstract",
    says="We prove that Dropout is only suitable for long training episodes but fails to reliably regularize "
    "training for short training episodes, e.g., finetuning.",
    reading="Under plain SGD what dropout adds to the mean of the weights is below their standard deviation up to "
    f"step {FEW}, above it in the long run, at learning rates up to {HIGHEST:g} of the largest, on labels of one "
    "column; for 5 (20) steps rates may be about three times as high (low) with masks on the output. That it may pay "
    "all the same is row 3.1-sgd-crossover. Whether the paper proves it is not judged: its Appendix A bounds, from "
    "above, how far an average of losses at fixed W is off (row 3.1-bound). " + NOT_THE_PAPERS,
    depends_on=("3.1-sgd-expectation",),
    relied_on_by=(DROPOUT_GUIDE,),
)
def reliable(cases: Cases) -> Finding:
    """What masks add to E W_t over √tr Cov W_t, up to step 10 and in the limit, against what E W_t alone tells."""
    judged = cases.judge(
        noisy_and_not(cases.rng),
        measure=measured_signal,
        printed=lambda one, seen: seen["most up to step 10"] < 1 < seen["limit"],
        condition=early_and_late,
    )
    first, many_rows = (
        first_steps([one for _ in range(n) for one in falling_spectra(cases.rng, FEW, rows=rows)], cases.rng)
        for n, rows in ((20, 8), (3, ROWS))
    )
    forever = {rows: never(cases.rng, rows, n) for rows, n in ((8, 20), (64, 10))}
    return judged.finding(
        conditional="Depends: dropout's effect outgrows its noise late at low learning rates or small batches, else "
        "early, perhaps never if noisy.",
        evidence=judged.evidence(
            f"{EXACT}; draws keep a factor of 1.1 away from the boundary, which leaves out what masks do to deviations",
            early_and_late,
            more={
                f"step at which bias outgrows noise, ∞ after {LONG}; quartiles": by_rate(first),
                f"the same of {ROWS} rows": by_rate(many_rows),
            }
            | {
                f"% in which it never does, by noise over signal and share of the largest rate, {rows} rows": of
                for rows, of in forever.items()
            },
        ),
        size=outgrown(first, many_rows),
        condition=NOISE_THEN_BIAS,
        flips_if="such a rate at which bias outgrows noise within ten steps though Γ_t says later, or never does",
    )
