"""§4.2 and Figure 2 (right), leaving zero as one row does; the layers' first steps are in `claims.s4_2_first_steps`.

A row's norm m at a constant gradient or towards a target, under SGD and AdamW: how fast, how measured, to what level.
Checked by `tests/test_claims_4_2_leaving_zero.py`, which plants wrong formulas.
"""

import functools
import math
from typing import NamedTuple

import numpy as np

from allora_analysis import adaptors, escape
from allora_analysis.claims import layer_training
from allora_analysis.claims.cases import (
    PAPER_ETAS,
    PAPER_RATE,
    Case,
    Cases,
    at_etas,
    log_uniform,
    on_either_side,
    relative_error,
)
from allora_analysis.claims.claim import Finding, Size, claim, ranged
from allora_analysis.claims.layer_training import ADAM, SAME
from allora_analysis.claims.s4_2_noise_at_rest import AS_LONG, FIXED_RATE
from allora_analysis.claims.s4_2_row_norms import FIGURE_ITSELF

escape_claim = functools.partial(claim, test="tests/test_escape_scalar.py")


class Row(NamedTuple):
    """A row's norm m from 0: its optimizer ("flow" is SGD at small rates), η, its gradient g, target T or level.

    And the rate l, and the norm c that the gradient is clipped at.
    """

    optimizer: str
    eta: float
    size: float
    rate: float = PAPER_RATE
    clip: float = math.inf


def flow(one: Row, times: np.ndarray, steps: int = 100) -> np.ndarray:
    """M at the times, from m' = min(c, g/√(m + 1/η²)) by Runge–Kutta of order 4."""

    def slope(m: float) -> float:
        return min(one.clip, one.size / (m + one.eta**-2) ** 0.5)

    m, path = 0.0, [0.0]
    for h in np.diff(times) / steps:
        for _ in range(steps):
            k1 = slope(m)
            k2 = slope(m + h / 2 * k1)
            k3 = slope(m + h / 2 * k2)
            m += h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(m + h * k3))
        path.append(m)
    return np.array(path)


def _times_of(one: Row) -> np.ndarray:
    """Times from far below to far above that of the bend, 1/(gη³)."""
    return np.array([0.0, 1e-6, 1e-2, 0.3, 3.0, 12.0, 50.0]) / (one.size * one.eta**3)


def told_flow(one: Row, times: np.ndarray) -> np.ndarray:
    """M at the times in closed form: ct while g/√(m + 1/η²) > c, from there on as unclipped."""
    bend = max(0.0, (one.size / one.clip) ** 2 - one.eta**-2)
    ends = bend / one.clip
    unclipped = np.maximum(times - ends + float(escape.time_to_reach(bend, one.size, one.eta)), 0.0)
    clipped = np.minimum(times, ends) * (one.clip if bend else 0.0)
    return np.where(times < ends, clipped, escape.trajectory(unclipped, one.size, one.eta))


def starts_faster(one: Row) -> bool | float:
    """ALLoRA's first speed over LoRA's where it is above 1: min(η, c/g) under SGD; never under AdamW."""
    return min(one.eta, one.clip / one.size) if one.optimizer == "flow" else False


ADAMW_STEPS = 100


def speeds(one: Row) -> dict[str, np.ndarray]:
    """The norm on its way, and its speed over LoRA's: at first, later, in the end."""
    if one.optimizer == "flow":
        path = flow(one, _times_of(one))
        lora = min(one.clip, one.size)
        return {"m": path, "speed over LoRA's": np.diff(path) / np.diff(_times_of(one)) / lora}
    slope = lambda m: one.size * (abs(m) + one.eta**-2) ** -0.5  # noqa: E731
    path = layer_training.one_row("adamw", slope, PAPER_RATE, ADAMW_STEPS)
    lora = layer_training.one_row("adamw", lambda m: one.size, PAPER_RATE, ADAMW_STEPS)
    return {"m": path[[0, 1, -1]], "speed over LoRA's": np.diff(path)[[0, -1]] / np.diff(lora)[[0, -1]]}


@escape_claim(
    "4-escape",
    test="tests/test_claims_4_2_leaving_zero.py",
    where="Figure 2, right, caption",
    says="ALLoRA escapes from 0 rapidly, and then tapers off into a measured move.",
    reading="At a constant gradient far above AdamW's ε a row grows faster than LoRA's at l_b at first, never faster "
    "later, and in the end more slowly than at first; the factor is on the gradient, as in Listing 1. That rows grow "
    f"faster early than late, without LoRA beside them: 4-figure-2-tapers. {FIGURE_ITSELF}",
)
def rapid(cases: Cases) -> Finding:
    """One row at a constant gradient: SGD at small rates, clipped or not, by Runge–Kutta, AdamW by torch."""

    def printed(one: Row, seen: dict[str, np.ndarray]) -> bool:
        over = seen["speed over LoRA's"]
        return bool(over[0] > 1 + SAME and (np.diff(over) <= SAME).all() and over[-1] < over[0] - SAME)

    def told(one: Row, seen: dict[str, np.ndarray]) -> bool:
        if one.optimizer == "flow":
            wanted = told_flow(one, _times_of(one))
            return relative_error(seen["m"], wanted) <= (1e-8 if one.clip == math.inf else 1e-5)
        return bool(abs(seen["m"][1] / PAPER_RATE - 1) <= ADAM)

    def draw(rng: np.random.Generator) -> Row:
        eta, g = on_either_side(rng, 0.01, 1.0), log_uniform(rng, -1, 1)
        if rng.random() < 0.2:
            return Row("adamw", eta, g)
        over = on_either_side(rng, 0.01, 1.0)  # c/g, from 0.37 to 2.7
        return Row("flow", eta, g, clip=math.inf if rng.random() < 0.4 else over * g)

    own = at_etas("AdamW", lambda eta: Row("adamw", eta, 1.5))
    judged = cases.judge(
        own + cases.draw(draw, 32),
        measure=speeds,
        printed=printed,
        corrected=told,
        condition=starts_faster,
    )
    return judged.finding(
        conditional="Only under SGD for η > 1, LoRA's gradient unclipped: "
        "AdamW's first step has the same length in both.",
        evidence=judged.evidence(
            "Runge–Kutta's own error, below 1e-9, 1e-5 over the kink where clipping ends; AdamW: its ε", tolerance=1e-8
        ),
        size=Size(float(judged.measured[2]["speed over LoRA's"][0]), "times LoRA's", "first step under AdamW, η² = 4"),
        corrected="SGD: η times as fast as LoRA at first, m(t) = (3gt/2 + η⁻³)^(2/3) − η⁻²; clipped at c, g < c < ηg, "
        "c/g times, m(t) = ct until m = g²/c² − 1/η²; where c ≤ g and η > 1 as fast as LoRA; AdamW: a first step of l",
        condition="SGD, η > 1 and c > g, g the gradient's norm, c that it is clipped at (∞ without clipping)",
        flips_if="a first step under AdamW longer than LoRA's, or one under SGD at η > 1 and c > g that is not",
        assumes="AdamW",
    )


class Approach(NamedTuple):
    """A row with a target under a squared loss, and η·l; the curvatures along its two halves are 1 and this."""

    row: Row
    product: float
    flattest: float = 1.0

    @property
    def slowed(self) -> float:
        """How far ALLoRA's factor at the target is below η: s = √(1 + η²T)."""
        return math.sqrt(1 + self.row.eta**2 * self.row.size)

    @property
    def earliest(self) -> float:
        """The η·l from which ALLoRA settles sooner."""
        return 2 / (1 + self.flattest / self.slowed)


def _settling_rate(one: Approach, adapted: bool) -> float:
    """By what m ← m − l·d(‖m‖)H(m − T) multiplies the distance to T a step, near it; 1 where it does not settle."""
    steep = flat = 0.0
    half, eta, gaps = one.row.size / math.sqrt(2), one.row.eta, []
    for _ in range(3000):
        factor = float(adaptors.inverse_sqrt(math.hypot(steep, flat), eta)) / eta if adapted else 1.0
        steep -= one.product * factor * (steep - half)
        flat -= one.product * factor * one.flattest * (flat - half)
        gaps.append(math.hypot(steep - half, flat - half) / one.row.size)
        if gaps[-1] < 1e-11 or gaps[-1] > 1e9:
            break
    if gaps[-1] > 1e-8:
        return 1.0
    last = [gap for gap in gaps if gap > 1e-11][-20:]
    return float((last[-1] / last[0]) ** (1 / (len(last) - 1))) if len(last) > 1 else 0.0


def advantage(one: Approach) -> bool | float:
    """How far η·l is inside (2/(1 + ρ/s), 2s), s = √(1 + η²T), where ALLoRA settles sooner; never under AdamW.

    Near T a step multiplies the distance along a curvature λ by 1 − ηlλ at the fixed rate and by 1 − ηlλ/s in ALLoRA,
    whose factor there is η/s; λ is from ρ to 1. Up to the best fixed rate, 2/(1 + ρ), that one's largest is 1 − ηlρ,
    the smaller; beyond, it is ηl − 1, which rises, so a faster rate gains nothing, and is above ALLoRA's 1 − ηlρ/s
    from 2/(1 + ρ/s) on. ALLoRA is stable below 2s.
    """
    if one.row.optimizer != "sgd":
        return False
    return min(one.product / one.earliest, 2 * one.slowed / one.product)


def settling(one: Approach) -> dict[str, float]:
    """SGD: what a step leaves of the distance, at η·l and in ALLoRA at l. AdamW: steps to 9/10 of T, both at l."""
    if one.row.optimizer == "sgd":
        return {name: _settling_rate(one, adapted) for name, adapted in (("fixed", False), ("ALLoRA", True))}
    eta, target, rate = one.row.eta, one.row.size, one.product / one.row.eta
    slopes = {"fixed": lambda m: target - m, "ALLoRA": lambda m: (target - m) * (abs(m) + eta**-2) ** -0.5}
    paths = {
        name: layer_training.one_row("adamw", slope, rate, 400, stop=0.9 * target) for name, slope in slopes.items()
    }
    return {name: float(len(path) - 1) for name, path in paths.items()}


def time_to(level: float, eta: float) -> float:
    """∫₀^level √(u + 1/η²) du by Simpson's rule, ALLoRA's time at a constant gradient of 1."""
    u = np.linspace(0.0, level, 20_001)
    weights = np.ones_like(u)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    return float(weights @ np.sqrt(u + eta**-2) * (u[1] - u[0]) / 3)


def as_told(one: Approach, seen: dict[str, float]) -> bool:
    """Whether `escape.tradeoff`'s gain of time at a constant gradient is the quadrature's, and at most 3/2."""
    found = escape.tradeoff(one.row.size, 1.0, one.row.eta)
    gain = one.row.size / found.rate_at_level / time_to(one.row.size, one.row.eta)
    return abs(found.advantage / gain - 1) <= 1e-5 and found.advantage <= 1.5


@escape_claim(
    "4-escape-fixed-rate",
    where="§4.2",
    says=FIXED_RATE,
    reading="A less kind reading: no fixed rate starts as fast as ALLoRA at l and settles as fast on a target, without "
    "noise; one row, a squared loss with two curvatures λ along it, alike or apart. With noise: row "
    "4-escape-fixed-rate-noise.",
    depends_on=("4-escape",),
)
def fixed_rate(cases: Cases) -> Finding:
    """One row towards its target: the fixed rate η·l (l under AdamW) against ALLoRA at l."""

    def draw(rng: np.random.Generator) -> Approach:
        row = Row("sgd", log_uniform(rng, -0.5, 1), log_uniform(rng, -2.5, 2.5))
        one = Approach(row, 1.0, 1.0 if rng.random() < 0.3 else log_uniform(rng, -1.9, 0))
        return one._replace(product=on_either_side(rng, 0.02, 0.69) * float(rng.choice([one.earliest, 2 * one.slowed])))

    own = [
        Case(f"AdamW, η = {eta:.3g}, T = {target:g}", Approach(Row("adamw", eta, target), eta * PAPER_RATE), True)
        for eta in PAPER_ETAS
        for target in (0.005, 0.02)
    ]
    slow = [
        Case(f"SGD at 0.01, η = {eta:.3g}, T = 1", Approach(Row("sgd", eta, 1.0), eta * 0.01)) for eta in PAPER_ETAS
    ]
    judged = cases.judge(
        [*own, *slow, *cases.draw(draw, 30)],
        measure=settling,
        printed=lambda one, seen: seen["ALLoRA"] < seen["fixed"],
        corrected=as_told,
        condition=advantage,
    )
    first = [Approach(Row("sgd", 2.0, AS_LONG), 1.0, flattest).earliest for flattest in (1.0, 0.1, 0.01)]
    return judged.finding(
        conditional="Only under SGD, at an ηl above LoRA's best rate; below, LoRA starts as fast and settles as soon.",
        evidence=judged.evidence("20 steps near the target; Simpson's rule on 1/d, 1e-5", tolerance=1e-5),
        size=ranged(
            first,
            "of 1/λ_max, LoRA's edge being 2",
            f"ηl from which ALLoRA settles sooner, T = {AS_LONG}, η² = 4, λ_max 10 λ_min; in brackets 1 to 100 times",
            first[1],
        ),
        corrected="at a constant gradient ALLoRA arrives at most 3/2 times as early as the fixed rate that is as "
        "measured at the level reached",
        condition="SGD, at an ηl above LoRA's best rate and below ALLoRA's edge. In formulas: "
        "2/(λ_max + λ_min/s) < ηl < 2s/λ_max, s = √(1 + η²T), T the target's norm; a fixed rate "
        "is best at 2/(λ_max + λ_min) and stable up to 2/λ_max, ALLoRA up to 2s/λ_max; under AdamW at 1e-4 never (on "
        "the way to 9/10 of T)",
        flips_if="ALLoRA settling sooner at a smaller ηl, or under AdamW at 1e-4",
    )


def longest(eta: float, times: float = 1.5) -> float:
    """The norm m up to which LoRA at l takes `times` ALLoRA's time at a constant gradient; 0 where it never does.

    With v = 1/η and u = √(m + v²) the ratio of the times is κ where κ(u³ − v³) = (3/2)(u² − v²): u = v, or the root of
    κ(u² + uv + v²) = (3/2)(u + v), beyond v only if v < 1/κ.
    """
    v = 1 / eta
    if v >= 1 / times:
        return 0.0
    linear = v - 1.5 / times
    u = (-linear + math.sqrt(linear**2 - 4 * (v**2 - 1.5 * v / times))) / 2
    return u**2 - v**2


def _lora_over_allora(one: Row) -> float:
    """LoRA's time at l over ALLoRA's to the level, at a constant gradient; NaN where one does not arrive."""
    if one.optimizer == "flow":
        return one.size / time_to(one.size, one.eta)
    slopes = (lambda m: 1.0, lambda m: (abs(m) + one.eta**-2) ** -0.5)
    most, level = int(3 * one.size / one.rate), one.size * (1 - SAME)
    paths = [layer_training.one_row("adamw", slope, one.rate, most, stop=level) for slope in slopes]
    return (len(paths[0]) - 1) / (len(paths[1]) - 1) if min(path[-1] for path in paths) >= level else math.nan


def adamw_steps(one: Row) -> int:
    """ALLoRA's steps to the level at a constant gradient of 1, from AdamW's definition: β = (0.9, 0.999), ε = 10⁻⁸.

    None is above l: ALLoRA's gradients fall, and m̂, which weights the later ones more, is at most their mean in v̂.
    """
    m = mean = square = 0.0
    t = 0
    while m < one.size * (1 - SAME):
        t += 1
        d = (m + one.eta**-2) ** -0.5
        mean, square = 0.9 * mean + 0.1 * d, 0.999 * square + 0.001 * d * d
        m += one.rate * mean / (1 - 0.9**t) / (math.sqrt(square / (1 - 0.999**t)) + 1e-8)
    return t


def times_as_told(one: Row, seen: float) -> bool:
    """Whether the ratio is `escape.time_to_reach`'s under SGD; AdamW's own definition's, and at most 1, under AdamW."""
    if one.optimizer != "flow":
        return abs(seen * adamw_steps(one) * one.rate / one.size - 1) <= 1e-3 and seen <= 1
    return abs(seen * float(escape.time_to_reach(one.size, 1.0, one.eta)) / one.size - 1) <= 1e-5


@escape_claim(
    "4-figure-2-slower",
    test="tests/test_claims_4_2_leaving_zero.py",
    where="§4.2",
    says="LoRA with a learning rate lower than η·l_b can reach the same level, but at a much slower pace",
    reading="LoRA at l_b takes at least 3/2 of ALLoRA's time at a constant gradient, far above AdamW's ε and not "
    "clipped; SGD's rate is small. 3/2 is a threshold of ours. l_b is the lower rate at hand: just below η·l_b SGD is "
    "hardly slower, and that some lower rate is much slower, as l_b/2 under AdamW, is true whatever the layer. "
    f"{FIGURE_ITSELF}",
    depends_on=("4-escape",),
)
def slower(cases: Cases) -> Finding:
    """The two times to a level, by Simpson's rule under SGD, in steps of torch's AdamW."""

    def draw(rng: np.random.Generator) -> Row:
        eta = float(np.exp(rng.uniform(0.45, 3)) if rng.random() < 0.8 else np.exp(rng.uniform(-1, 0.4)))
        near = on_either_side(rng, 0.01, 0.69)
        if rng.random() < 0.2:
            steps, rate = int(rng.integers(20, 200)), float(10 ** rng.uniform(-4, -1))
            return Row("adamw", log_uniform(rng, 0.05, 3), steps * rate, rate)
        return Row("flow", eta, near * (longest(eta) or 1.0))

    own = at_etas("AdamW, to 0.02", lambda eta: Row("adamw", eta, 0.02))
    known = [Case(f"SGD, to 0.1, η = {eta:.3g}", Row("flow", eta, 0.1)) for eta in PAPER_ETAS]
    judged = cases.judge(
        [*own, Case("AdamW, to 0.1, η = 2", Row("adamw", 2.0, 0.1), paper=True), *known, *cases.draw(draw, 30)],
        measure=_lora_over_allora,
        printed=lambda one, seen: seen >= 1.5,
        corrected=times_as_told,
        condition=lambda one: longest(one.eta) / one.size if one.optimizer == "flow" and one.eta > 1.5 else False,
    )
    to_tenth = [seen for case, seen in judged.pairs if case.name.startswith("SGD")]
    under_adamw = {m: m / PAPER_RATE / adamw_steps(Row("adamw", 2.0, m)) for m in (0.02, 0.1, longest(2.0))}
    shown = ", ".join(f"{ratio:.2f} to {level:.2g}" for level, ratio in under_adamw.items())
    return judged.finding(
        conditional=f"Only under SGD, row norms up to {longest(2.0):.2g}, η² = 4; under AdamW ALLoRA is "
        f"{100 / under_adamw[0.02] - 100:.0f} to {100 / under_adamw[longest(2.0)] - 100:.0f} % slower.",
        evidence=judged.evidence("Simpson's rule near the kink; AdamW: a step in those that it takes", tolerance=1e-5),
        size=ranged(
            to_tenth,
            "times",
            "LoRA's time at l over ALLoRA's to a row norm of 0.1 under SGD, for η² from 1 to 4",
            to_tenth[2],
        ),
        corrected="LoRA's time over ALLoRA's is m/∫₀^m √(u + 1/η²) du under SGD; at most 1 under AdamW, which follows "
        f"ALLoRA's falling gradient with a step below l: {shown} at l = 1e-4, η² = 4 (LoRA at l_b/2: "
        f"{2 * under_adamw[0.02]:.2f} to 0.02)",
        condition=f"SGD, η > 3/2 and rows that are short enough: at η² = 4 up to {longest(2.0):.2g}. In formulas: "
        "‖(BA)_i‖ ≤ m with u² + uv + v² = u + v, v = 1/η, u = √(m + v²). At η² = 4 half the excess, a threshold of "
        f"5/4, gives {longest(2.0, 1.25):.2g}, and twice the excess, one of 2, gives {longest(2.0, 2.0):.2g}",
        flips_if="LoRA at l taking 3/2 of ALLoRA's steps under AdamW",
        assumes="AdamW",
    )
