"""§3.2, the loss L(V) = ‖X(W + V) − Y‖²_F in the module's matrix V: Eqs. (1) and (2), and what n does to it.

X is N×D, Y is N×C, W and V are D×C; S = XᵀX; κ is the condition number of a matrix's non-zero part. Gradients and
Hessians are judged by differences of the loss, which are exact for a quadratic. Checked by `tests/test_claims_3_2.py`.
"""

import functools
import itertools
from typing import NamedTuple

import numpy as np

from allora_analysis import hessian
from allora_analysis.claims.cases import Case, Cases, log_uniform, relative_error, source_of_errors, standard_errors
from allora_analysis.claims.claim import Finding, Size, claim, ranged

quadratic_claim = functools.partial(
    claim, command="python -m allora_analysis.hessian", test="tests/test_hessian_product.py"
)
TOLERANCE = 1e-9
ROUNDING = "float64 rounding of differences that are exact for a quadratic, relative; seen: below 1e-11"
SETTING = (
    "The paper's setting: rotten_tomatoes, the least training set of Tables 2 to 4, 8,530 sentences of 21 words, is "
    "halved; a row of X for each word."
)
DEGENERATE = "as the training set size (n) decreases, the optimization landscape for V will become degenerate"


class Problem(NamedTuple):
    """X, Y, W, a point V, and directions in which differences are taken (directions×D×C)."""

    x: np.ndarray
    y: np.ndarray
    w: np.ndarray
    v: np.ndarray
    directions: np.ndarray


def power_law(n: int, d: int, rng: np.random.Generator) -> np.ndarray:
    """X (N×D) whose rows have covariance eigenvalues falling as 1/i, as features of trained networks have about."""
    basis = np.linalg.qr(rng.standard_normal((d, d)))[0]
    return rng.standard_normal((n, d)) * np.arange(1, d + 1) ** -0.5 @ basis


def problem(x: np.ndarray, c: int, rng: np.random.Generator) -> Problem:
    """Y, W, V and six directions with standard normal entries."""
    (n, d), normal = x.shape, rng.standard_normal
    return Problem(x, normal((n, c)), normal((d, c)), normal((d, c)), normal((6, d, c)))


def problems(cases: Cases) -> list[Case]:
    """Shapes at random, half of them with C = N or C = D, and a LoRA module's with a power-law spectrum."""

    def draw(rng: np.random.Generator) -> Problem:
        n, d, c = (int(size) for size in rng.integers(2, 10, size=3))
        c = [c, c, n, d][rng.integers(4)]
        return problem(rng.standard_normal((n, d)), c, rng)

    own = Case("power-law X, N = 128, D = 64, C = 16", problem(power_law(128, 64, cases.rng), 16, cases.rng), True)
    return [own, *cases.draw(draw, 12)]


def loss(one: Problem, points: np.ndarray) -> np.ndarray:
    """L at many V (…×D×C)."""
    return np.asarray(((one.x @ (one.w + points) - one.y) ** 2).sum(axis=(-2, -1)))


def slopes(one: Problem) -> np.ndarray:
    """⟨∇L(V), E⟩ along each direction E."""
    return (loss(one, one.v + one.directions) - loss(one, one.v - one.directions)) / 2


def curvatures(one: Problem) -> np.ndarray:
    """⟨E, ∇²L(V) F⟩ for each pair of directions."""
    e, f = one.directions[:, None], one.directions[None]
    signs = itertools.product((1, -1), repeat=2)
    return sum(s * t * loss(one, one.v + s * e + t * f) for s, t in signs) / 4


def columns(matrices: np.ndarray) -> np.ndarray:
    """Vec of each matrix, its columns stacked."""
    return matrices.swapaxes(-2, -1).reshape(*matrices.shape[:-2], -1)


@quadratic_claim("3.2-gradient", where="§3.2, Eq. (1)", says="∇_V L(V) = 2XᵀXV − 2(Y − XW)ᵀX")
def gradient(cases: Cases) -> Finding:
    """Eq. (1) as printed and with its last term transposed, against differences of the loss."""

    def along(one: Problem, matrix: np.ndarray) -> np.ndarray:
        return (one.directions * matrix).sum(axis=(1, 2))

    def as_printed(one: Problem, seen: np.ndarray) -> bool:
        first, last = 2 * one.x.T @ one.x @ one.v, 2 * (one.y - one.x @ one.w).T @ one.x
        return first.shape == last.shape and relative_error(along(one, first - last), seen) <= TOLERANCE

    def mended(one: Problem) -> np.ndarray:
        return along(one, hessian.product_gradient(*one[:4]))

    judged = cases.judge(
        problems(cases),
        slopes,
        printed=as_printed,
        corrected=lambda one, seen: relative_error(mended(one), seen) <= TOLERANCE,
    )
    return judged.finding(
        holds_corrected="Not as printed, a misprint: its last term is transposed; shapes match only for as "
        "many outputs as inputs.",
        evidence=judged.evidence(ROUNDING, mended, tolerance=TOLERANCE),
        corrected="∇L(V) = 2XᵀXV − 2Xᵀ(Y − XW)",
        flips_if="a loss whose slopes are those of the transposed term",
    )


@quadratic_claim("3.2-hessian", where="§3.2, Eq. (2)", says="H_vec(V) L(V) = (I_n ⊗ X)ᵀ(I_n ⊗ X) = I_n ⊗ XᵀX")
def second_derivative(cases: Cases) -> Finding:
    """Eq. (2) with n the number of samples, and with 2 and the number of outputs, against second differences."""

    def form(one: Problem, matrix: np.ndarray) -> np.ndarray:
        flat = columns(one.directions)
        return flat @ matrix @ flat.T if len(matrix) == flat.shape[1] else np.zeros(0)

    def as_printed(one: Problem, seen: np.ndarray) -> bool:
        (n, c), gram = one.y.shape, one.x.T @ one.x
        return n == c and relative_error(form(one, np.kron(np.eye(n), gram)), seen) <= TOLERANCE

    def mended(one: Problem) -> np.ndarray:
        return form(one, hessian.product_hessian(one.x, one.y.shape[1]))

    judged = cases.judge(
        problems(cases),
        curvatures,
        printed=as_printed,
        corrected=lambda one, seen: relative_error(mended(one), seen) <= TOLERANCE,
    )
    return judged.finding(
        holds_corrected="Not as printed, misprints: a factor 2 is missing; I has the number of outputs, not samples.",
        evidence=judged.evidence(ROUNDING, mended, tolerance=TOLERANCE),
        corrected="2 I_C ⊗ XᵀX, C the number of outputs",
        flips_if="a loss with half the curvature, or one that couples outputs",
    )


@quadratic_claim(
    "3.2-vectorisation",
    where="§3.2, below Eq. (2)",
    says="‖X(W+V) − Y‖_F² = ‖(I_n ⊗ X)vec(W+V) − vec(Y)‖₂²",
    reading="n is the training set size, as in the section's last sentence, the only one that says what n is.",
    same_fault_as="3.2-hessian",
)
def vectorisation(cases: Cases) -> Finding:
    """Both sides, with the identity of size n as printed and of size C, the number of outputs."""

    def right(one: Problem, size: int) -> float | None:
        if size != one.y.shape[1]:
            return None  # undefined: I ⊗ X does not fit vec(W + V)
        residual = np.kron(np.eye(size), one.x) @ columns(one.w + one.v) - columns(one.y)
        return float(residual @ residual)

    def same(value: float | None, seen: float) -> bool:
        return value is not None and relative_error(value, seen) <= TOLERANCE

    judged = cases.judge(
        problems(cases),
        lambda one: float(loss(one, one.v)),
        printed=lambda one, seen: same(right(one, len(one.y)), seen),
        corrected=lambda one, seen: same(right(one, one.y.shape[1]), seen),
    )
    return judged.finding(
        holds_corrected="Not as printed, a misprint: the identity has the number of outputs, not of samples.",
        evidence=judged.evidence(ROUNDING, lambda one: right(one, one.y.shape[1]), tolerance=TOLERANCE),
        corrected="‖(I_C ⊗ X)vec(W + V) − vec(Y)‖², C the number of outputs",
        flips_if="a shape with n ≠ C for which I_n ⊗ X fits vec(W + V)",
    )


def one_digit(values: np.ndarray) -> int:
    """The median, to one digit."""
    return int(float(f"{np.median(values):.1g}"))


POORLY = (
    "LoRA's parameters initialization is at 0 makes the optimization landscape poorly conditioned during the first "
    "steps of training"
)


def log_condition_at(one: Problem, point: np.ndarray) -> float:
    """Log κ of the Hessian in V at a point, by differences of the gradient."""
    unit = np.eye(point.size).reshape(-1, *point.shape)
    pairs = [
        [hessian.product_gradient(one.x, one.y, one.w, point + sign * e).ravel() for sign in (1, -1)] for e in unit
    ]
    return float(np.log(np.linalg.cond(np.array([(up - down) / 2 for up, down in pairs]))))


@quadratic_claim(
    "3.2-start-conditioning",
    where="beyond the paper: Abstract, second flaw, in V",
    says="In V, zero is worse conditioned than other points.",
    reading="By the condition number of the Hessian, Eq. (2), at V = 0 and at another V.",
    depends_on=("3.2-hessian",),
)
def start_conditioning(cases: Cases) -> Finding:
    """Log κ of the Hessian at V = 0 against that at V of size 1 to 150, by differences of the gradient."""

    def draw(rng: np.random.Generator) -> Problem:
        n, d, c = int(rng.integers(6, 12)), int(rng.integers(2, 6)), int(rng.integers(2, 4))
        one = problem(rng.standard_normal((n, d)), c, rng)
        return one._replace(v=log_uniform(rng, 0, 5) * one.v)

    own = Case("power-law X, N = 48, D = 24, C = 3", problem(power_law(48, 24, cases.rng), 3, cases.rng), True)
    judged = cases.judge(
        [own, *cases.draw(draw, 12)],
        lambda one: {"V = 0": log_condition_at(one, 0 * one.v), "V": log_condition_at(one, one.v)},
        printed=lambda one, seen: seen["V = 0"] > seen["V"] + 1e-6,
    )
    ratios = [float(np.exp(seen["V = 0"] - seen["V"])) for _, seen in judged.pairs]
    return judged.finding(
        refuted="No: V's curvature is the same everywhere, so starting at zero makes nothing worse.",
        evidence=judged.evidence(
            "float64 rounding of log κ: 1e-6", lambda one: {"V = 0": hessian.log_condition(one.x)}, tolerance=1e-6
        ),
        size=Size(max(ratios), "times", "condition number at V = 0 over that at another V, the largest of all cases"),
        corrected="the Hessian in V does not contain V: zero is as well conditioned as any V",
        flips_if="a condition number that is larger at V = 0 than elsewhere",
    )


SENTENCES, WIDEST = 8530, 4864  # of rotten_tomatoes; inputs of Qwen2-0.5B's down_proj


class Fewer(NamedTuple):
    """A training set and a smaller one: rows drawn afresh (i.i.d.), or so rescaled that XᵀX stays what it is."""

    many: np.ndarray
    few: np.ndarray
    fresh: bool


def papers_own(rng: np.random.Generator) -> list[Fewer]:
    """rotten_tomatoes, a row for each word, and half of it: 200 rows for each of 896 inputs, 36 for each of 4,864."""
    designs = power_law(9600, 48, rng), rng.standard_normal((1728, 48))
    return [Fewer(x, x[: len(x) // 2], True) for x in designs]


def fewer_rows(cases: Cases, boundary: int) -> list[Case]:
    """Designs that lose rows, half of them near n = the number that decides; the paper's: far more rows than inputs."""

    def fresh(rng: np.random.Generator, low: float, high: float) -> Fewer:
        d = int(rng.integers(6, 17))
        few = max(1, int(boundary * np.exp(rng.uniform(low, high))))
        x = rng.standard_normal((few + int(rng.integers(1, 2 * d)), d))
        return Fewer(x, x[:few], True)

    def fixed(rng: np.random.Generator) -> Fewer:
        x = rng.standard_normal((40, int(rng.integers(6, 17))))
        return Fewer(x, hessian.fixed_gram_design(x, x.shape[1], rng), False)

    near = cases.draw(lambda rng: fresh(rng, -0.65, 0), 8, "n below") + cases.draw(
        lambda rng: fresh(rng, 0, 0.65), 8, "n above"
    )
    far = cases.draw(lambda rng: fresh(rng, 1, 2), 4, "n far above") + cases.draw(fixed, 4, "XᵀX held fixed")
    own = [Case(f"D = 48, n = {len(one.many)} → {len(one.few)}", one, True) for one in papers_own(cases.rng)]
    return [*own, *near, *far]


def _flat(x: np.ndarray) -> int:
    values = hessian.product_spectrum(x, 2)
    return int((values <= 1e-12 * values[-1]).sum())


@quadratic_claim(
    "3.2-degenerate-rank",
    where="§3.2, last sentence",
    says=DEGENERATE,
    reading="Degenerate: as samples are taken away the Hessian in V has flat directions from some n on. "
    f"{SETTING} In the last block, where a classifier reads last tokens, down_proj has one for each sentence: half is "
    f"{SENTENCES // 2:,}, fewer than Qwen2-0.5B's {WIDEST:,} inputs. The paper's setting is both.",
    depends_on=("3.2-hessian",),
)
def flat_directions(cases: Cases) -> Finding:
    """Flat directions at each number of samples, taken away one by one."""

    def draw(rng: np.random.Generator) -> np.ndarray:
        d = int(rng.integers(3, 9))
        return rng.standard_normal((d + int(rng.integers(0, d)), d))

    own = Case("power-law X, D = 16, n from 48 down", power_law(48, 16, cases.rng))
    judged = cases.judge(
        [own, *cases.draw(draw, 12)],
        lambda x: {n: _flat(x[:n]) for n in range(len(x), 0, -1)},
        printed=lambda x, seen: seen == {n: 2 * max(0, x.shape[1] - n) for n in seen},
    )
    by_sentence = power_law(48 * (SENTENCES // 2) // WIDEST, 48, cases.rng)
    halved = [_flat(x) for x in (*(one.few for one in papers_own(cases.rng)), by_sentence)]
    return judged.finding(
        holds="Yes, once rows are fewer than inputs; at half of rotten_tomatoes only in the widest layer, a row a "
        "sentence.",
        evidence=judged.evidence(
            "counts: none may differ",
            {"flat directions": "C·(D − n) for n < D, else 0"},
            more={"at half of the set, 48 inputs, a row for each word (two layers), for each sentence": halved},
        ),
        at_paper="mixed" if any(halved) != all(halved) else all(halved),
        flips_if="a design with n ≥ D independent rows and a flat direction, or with n < D and none",
    )


DRAWS = 100  # designs at each number of samples


class Counts(NamedTuple):
    """Two numbers of samples, and the rank d of the inputs' covariance.

    Rows are drawn afresh (i.i.d., Gaussian) or so rescaled that XᵀX stays what it is.
    """

    many: int
    few: int
    d: int
    fresh: bool
    power: float = 0.0  # covariance eigenvalues i^(−power), i = 1 … d
    more: int = 0  # inputs, D = d + more
    draws: int = DRAWS


def _rows(n: int, d: int, rng: np.random.Generator) -> np.ndarray:
    # X (n×d), i.i.d. normal; of many rows the R of X = QR, whose law is Bartlett's (1933) and has the same RᵀR.
    if n < 16 * d:
        return rng.standard_normal((n, d))
    return np.triu(rng.standard_normal((d, d)), 1) + np.diag(np.sqrt(rng.chisquare(n - np.arange(d))))


def _log_conditions(one: Counts, rng: np.random.Generator) -> dict[str, list[float]]:
    """Mean and standard error of log κ of XᵀX's non-zero part, at both numbers of samples."""
    if not one.fresh:
        x = rng.standard_normal((2 * one.d, one.d))
        designs = [hessian.fixed_gram_design(x, n, rng) for n in (one.many, one.few)]
        return {
            name: [hessian.log_condition(x), 0.0]
            for name, x in zip(("many samples", "few samples"), designs, strict=True)
        }
    found = {}
    for name, n in (("many samples", one.many), ("few samples", one.few)):
        if one.power or one.more:
            basis = np.linalg.qr(rng.standard_normal((one.d + one.more, one.d)))[0].T
            root = np.arange(1, one.d + 1)[:, None] ** (-one.power / 2) * basis
            logs = np.array([hessian.log_condition(_rows(n, one.d, rng) @ root) for _ in range(one.draws)])
        else:
            logs = hessian.sample_log_conditions(n, one.d, one.draws, rng)
        found[name] = [float(logs.mean()), float(logs.std(ddof=1) / np.sqrt(one.draws))]
    return found


def limits(one: Counts) -> tuple[float, float]:
    """Log κ at both numbers of samples for i.i.d. entries in the limit of many: Marchenko and Pastur's."""
    many, few = (float(np.log(hessian.marchenko_pastur_condition(one.d / n))) for n in (one.many, one.few))
    return many, few


def above(one: Counts) -> float:
    """The n that is nearer to d over d, which itself is the end of both sides; 0 where κ does not change."""
    nearer = (one.few + 0.5) / one.d if one.few >= one.d else (one.many - 0.5) / one.d
    return nearer if one.fresh and one.d > 1 else 0.0


def _two_counts(rng: np.random.Generator) -> Counts:
    """Two n on one side of n = d, the nearer within a factor of two of it, of white or spread rows; or XᵀX fixed."""
    d = int(rng.integers(12, 31))
    if rng.random() < 0.15:
        return Counts(8 * d, int(rng.integers(d, 4 * d)), d, False)
    near, apart = float(rng.uniform(0, 0.65)), float(rng.uniform(0.4, 0.9))
    power, more = float(rng.choice([0.0, 1.0, 2.0])), int(rng.choice([0, 0, d // 2, 3 * d]))
    if rng.random() < 0.5:
        few = round(d * np.exp(near))
        return Counts(round(few * np.exp(apart)), few, d, True, power, more)
    many = round(d * np.exp(-near))
    return Counts(many, max(2, round(many * np.exp(-apart))), d, True, power, more)


def _noise(seen: dict[str, list[float]]) -> float:
    return standard_errors(DRAWS) * float(np.hypot(*(error for _, error in seen.values())))  # between two means


KNOWN = [
    Case("power-law X, D = 48, n = 9,600 → 4,800", Counts(9600, 4800, 48, True, 1.0, draws=400), True),
    Case("equal variances, D = 48, n = 1,728 → 864", Counts(1728, 864, 48, True), True),
    Case("power-law X, D = 48, n = 384 → 192", Counts(384, 192, 48, True, 1.0)),
    Case("equal variances, D = 30, n = 60 → 38", Counts(60, 38, 30, True)),
    Case("equal variances, D = 30, n = 24 → 12", Counts(24, 12, 30, True)),
    Case("power-law X, D = 48, n = 40 → 7", Counts(40, 7, 48, True, 1.0)),
    Case("covariance of rank 5, D = 20, n = 12 → 6", Counts(12, 6, 5, True, 0.0, 15)),
    Case("covariance of rank 1, D = 8, n = 12 → 4", Counts(12, 4, 1, True, 0.0, 7)),
]


HALVED = (
    "rise of κ as Gaussian rows, as many as rotten_tomatoes has words (8,530 sentences of 21), are halved: from 200 for"
    " each of 896 inputs, variances a power law (equal, white inputs: {white:.0f} %); up to 36 for each of 4,864, white"
)


@quadratic_claim(
    "3.2-degenerate-condition",
    where="§3.2, last sentence",
    says=DEGENERATE,
    reading="Degenerate: κ of XᵀX's non-zero part rises in the mean of log κ, by however little (by more: evidence), "
    f"from one n to a smaller one on the same side of d, the rank of the inputs' covariance, D or less. {SETTING} "
    "Of it only the number of words is used: rows are Gaussian, their variances a power law or equal.",
    depends_on=("3.2-hessian",),
)
def conditioning_by_samples(cases: Cases) -> Finding:
    """Log κ over designs drawn at two numbers of samples, above or below n = d, and where XᵀX is held fixed."""

    def sign(one: Counts) -> float:
        return float(np.sign(above(one) - 1) if one.power else np.sign(np.subtract(*limits(one)[::-1])))

    def rise(seen: dict[str, list[float]]) -> float:
        return seen["few samples"][0] - seen["many samples"][0]

    judged = cases.judge(
        KNOWN + cases.draw(_two_counts, 14),
        lambda one: _log_conditions(one, cases.rng),
        printed=lambda one, seen: rise(seen) > _noise(seen) + TOLERANCE,
        corrected=lambda one, seen: (
            rise(seen) * sign(one) > _noise(seen) if one.fresh and one.d > 1 else abs(rise(seen)) <= 1e-6
        ),
        condition=above,
    )
    equal = [np.subtract(*limits(Counts(2 * n, n, 1, True))[::-1]) for n in (100, 18)]
    rises = [100 * float(np.expm1(each)) for each in (rise(judged.own[0]), *equal)]
    both = {"the paper's": np.expm1([*map(rise, judged.own)]), "all": np.expm1([*map(rise, judged.measured)])}
    by_more = {f"{100 * by:g} %": {who: int((of > by).sum()) for who, of in both.items()} for by in (0.1, 0.2, 0.5, 1)}
    return judged.finding(
        conditional="Only with more samples than independent inputs: halving Gaussian rows, rotten_tomatoes' count, "
        f"raises κ by only {min(rises):.2g} to {max(rises):.0f} %.",
        evidence=judged.evidence(
            f"each difference between two means: {source_of_errors(DRAWS)}",
            lambda one: dict(zip(("many samples", "few samples"), limits(one), strict=True)) if one.fresh else 0.0,
            more={"cases in which κ rises by more than": by_more},
            n=DRAWS,
        ),
        size=ranged(rises, "%", HALVED.format(white=rises[1]), rises[0]),
        condition="samples, drawn afresh, become fewer but not fewer than independent inputs. In formulas: n falls "
        "towards d from above, down to n ≥ d ≥ 2, rows Gaussian; below d κ falls again, and of a fixed XᵀX it does not "
        "change. For rows with equal variances and large d, κ → ((√n + √d)/(√n − √d))²; for others it is at least as "
        "large",
        flips_if="a mean of log κ that falls with n above d, or rises as n falls below d",
    )
