"""What a LoRA recipe really sets: the rates of A, of B and of BA's first step, and the other recipes that train alike.

x ↦ s·B(Ax) with s = α/r, or α/√r for rsLoRA. One of A and B starts at 0, the other as a linear layer's weights do
(Kaiming uniform: variance 1/(3·fan_in), so 1/(3n₂) for A and 1/(3r) for B). Beside `invariance.rescaled`:

- *Rates at s = 1.* With B̃ = sB the same function has scaling 1, and B's rate is s·l_B (Adam) or s²·l_B (SGD): what α
  changes is B's rate alone, A's stays l_A. (A = 0, B random: the same with A in B's place.)
- *BA's first step.* At B = 0 the gradient of A is 0 and B's is s·GAᵀ, G = ∂L/∂(s·BA). Under SGD s·BA moves by
  −s²l_B·G AᵀA, in the mean over A −s²l_B·rσ²·G: full fine-tuning's step at rate s²l_B·rσ². Under Adam B moves by
  −l_B·sign(GAᵀ), and the entries of s·BA by s·l_B·σ√r (root mean square, r ≪ n₂, where rows of A are orthogonal but for
  O(1/√n₂)); full fine-tuning's move by its l.
- *Decay.* (1 − lλ)^T of a matrix is left after T steps at a constant rate. Adam's own `weight_decay` (not AdamW's) adds
  λA to the gradient, which at B = 0 is all that A has: its first step is −l·sign(A) whatever λ > 0.
- *`ALLoRAAdamW`* multiplies AdamW's update by functions of ‖s(BA)_i‖, the same for all settings that train alike, and
  by η at BA = 0. A and B are one group there, so that their rates, ε and decays are equal.

Checked by `tests/test_adaptive_recipe.py`, which trains torch's own optimizers on every row of the table.

Below, in the words that the doctors print: what the theory says of a layer's start, width, stable steps, ripple and
dropout. Checked by `tests/test_doctor_command.py` and `tests/test_lora_doctor_rates.py`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from allora_analysis.adaptive.invariance import Setting, rescaled
from allora_analysis.hessian.starts import expected_cosine
from allora_analysis.validation import ArgumentError, choice, count, non_negative, number, positive
from allora_analysis.width.exponents import flow_eta_to_taper, flow_factor, taper

ON_UPDATE = "alloraadamw"  # has the factor on its update
OPTIMIZERS = ("adamw", "adam", "sgd", ON_UPDATE)
ZEROS = ("b", "a")
SHARE = 0.1  # a fall of the mean factor by so much counts as tapering
CONSTANT = 0.95  # of η: with all factors above, the rule is a constant


def alpha_of_one(r: int, rslora: Any) -> float:
    """The α at which s = 1, so that s = α/alpha_of_one(r): r, or √r for rsLoRA."""
    return math.sqrt(r) if rslora else float(r)


@dataclass(frozen=True)
class Recipe:
    """A run's settings, as training libraries name them.

    Attributes:
        r: the rank.
        alpha: α; s = α/r.
        lr: the learning rate, A's.
        optimizer: "adamw", "adam" (decay within the gradient), "sgd" or "alloraadamw" (`lora.optim.ALLoRAAdamW`).
        rslora: s = α/√r.
        loraplus_ratio: B's rate over A's.
        eps: Adam's ε.
        weight_decay: λ of A and B.
        zero: the matrix that starts at 0, "b" or "a".
        width: n₂, the layer's number of inputs; None leaves out what depends on it.
    """

    r: int
    alpha: float
    lr: float
    optimizer: str = "adamw"
    rslora: bool = False
    loraplus_ratio: float = 1.0
    eps: float = 1e-8
    weight_decay: float = 0.0
    zero: str = "b"
    width: int | None = None

    @property
    def scaling(self) -> float:
        """The scaling s."""
        return self.alpha / alpha_of_one(self.r, self.rslora)

    @property
    def power(self) -> int:
        """1 under Adam, 2 under SGD: the power of s in a rate."""
        return 2 if self.optimizer == "sgd" else 1

    @property
    def on_update(self) -> bool:
        """The factor is on the update, `ALLoRAAdamW`'s."""
        return self.optimizer == ON_UPDATE

    @property
    def setting(self) -> Setting:
        """As `invariance` takes it."""
        return Setting(
            self.scaling,
            1.0,
            self.lr,
            self.lr * self.loraplus_ratio,
            self.eps,
            self.eps,
            self.weight_decay,
            self.weight_decay,
        )


def checked(recipe: Recipe) -> Recipe:
    """A recipe whose values make sense."""
    count("r", recipe.r)
    for name in ("alpha", "lr", "loraplus_ratio"):
        positive(name, getattr(recipe, name))
    choice("optimizer", recipe.optimizer, OPTIMIZERS)
    if recipe.on_update and recipe.loraplus_ratio != 1:
        raise ArgumentError(
            "loraplus_ratio must be 1 with the optimizer alloraadamw, whose pair (A, B) has one rate; received "
            f"{recipe.loraplus_ratio:g}; leave it out, or take adamw"
        )
    choice("zero", recipe.zero, ZEROS)
    non_negative("weight_decay", recipe.weight_decay)
    (positive if recipe.optimizer != "sgd" else number)("eps", recipe.eps)
    if recipe.width is not None and count("width", recipe.width) < recipe.r:
        raise ArgumentError(f"width must be at least r = {recipe.r}, received {recipe.width}")
    return recipe


@dataclass(frozen=True)
class Rates:
    """What a recipe comes to.

    Attributes:
        scaling: s.
        a: A's rate at scaling 1, where the matrix that starts at 0 takes the scaling: l_A, or s·l_A (s² under SGD).
        b: B's likewise.
        first_step: Adam: the root mean square by which an entry of s·BA moves in the first step. SGD: the rate at which
            full fine-tuning's first step is its mean over the random matrix; it is longer itself, by one over the
            cosine of the two, √(r/(n₂ + r + 1)) from B = 0. None without a width.
        decay_left: the shares of A and of B that weight decay leaves after 1,000 steps at the full rate.
        times_loras: the first step over that of LoRA at these settings, what the rule's η makes of it.
    """

    scaling: float
    a: float
    b: float
    first_step: float | None
    decay_left: tuple[float, float]
    times_loras: float = 1.0


def rates(recipe: Recipe, factor: float = 1.0, output: float = 1.0) -> Rates:
    """The rates that a recipe sets.

    Args:
        recipe: the settings.
        factor: ALLoRA's η, of the gradients of A and B at BA = 0, or of `ALLoRAAdamW`'s update; a first step has it but
            for Adam's.
        output: of what the layer adds at BA = 0, ASF-LoRA's η beside its factor; every first step has it.

    Raises:
        ArgumentError: a setting that makes no sense, or decay of more than 2 a step, rate times decay.

    Examples:
        >>> from allora_analysis.adaptive.recipe import Recipe, rates
        >>> rates(Recipe(r=16, alpha=32, lr=2e-4)).b
        0.0004
    """
    own, s = checked(recipe).setting, recipe.scaling
    factor, output = positive("factor", factor), positive("output", output)
    times = output * (factor if recipe.optimizer == "sgd" or recipe.on_update else 1.0)
    scaled = s**recipe.power
    a, b = own.rate_a * (scaled if recipe.zero == "a" else 1), own.rate_b * (scaled if recipe.zero == "b" else 1)
    fan_in = recipe.width if recipe.zero == "b" else recipe.r
    step = None
    if fan_in is not None:
        moved, spread = (b if recipe.zero == "b" else a), 1 / math.sqrt(3 * fan_in)
        step = times * moved * (spread * math.sqrt(recipe.r)) ** recipe.power
    decays = [rate * recipe.weight_decay for rate in (own.rate_a, own.rate_b)]
    if max(decays) > 2:
        raise ArgumentError(
            f"weight_decay {recipe.weight_decay:g} times a rate is {max(decays):.3g}: above 2 decay alone makes the "
            "matrices grow at every step; lower it or the rate"
        )
    kept = tuple(abs(1 - decay) ** 1000 for decay in decays)
    return Rates(s, a, b, step, kept, times)


@dataclass(frozen=True)
class Equivalent:
    """A recipe that trains as another does.

    Attributes:
        name: what it is for.
        alpha: α.
        setting: its knobs: scaling, init of A (of B where A starts at 0, over its own), rates, ε, decay of A and B.
    """

    name: str
    alpha: float
    setting: Setting


def equivalents(recipe: Recipe, alpha: float | None = None) -> tuple[Equivalent, ...]:
    """Recipes under which s·BA takes the same path: any schedule, any data, no clipping (any momentum or β).

    The recipe itself, then: at α with B's rate changed (not under `ALLoRAAdamW`, where it is A's); at α with both rates
    multiplied alike; and, where the two rates differ, with one rate for both. `alpha` None: r (√r for rsLoRA), which
    is s = 1.
    """
    recipe = checked(recipe)
    unit = alpha_of_one(recipe.r, recipe.rslora)
    wanted = unit if alpha is None else positive("alpha", alpha)
    ratio = recipe.alpha / wanted
    found = [Equivalent("yours", recipe.alpha, recipe.setting)]
    if ratio != 1:
        start = "A" if recipe.zero == "b" else "B"
        one = (1.0, ratio) if recipe.zero == "b" else (ratio, 1.0)
        moved = "B" if recipe.zero == "b" else "A"
        if not recipe.on_update:
            found.append(Equivalent(f"α = {wanted:g}, {moved}'s rate", wanted, _scaled(recipe, *one)))
        found.append(
            Equivalent(f"α = {wanted:g}, both rates, {start}'s init", wanted, _scaled(recipe, ratio**0.5, ratio**0.5))
        )
    if recipe.loraplus_ratio != 1:
        part = recipe.loraplus_ratio ** (1 / (2 * recipe.power))
        found.append(Equivalent("one rate for A and B", recipe.alpha, _scaled(recipe, part, 1 / part)))
    return tuple(found)


def _scaled(recipe: Recipe, a: float, b: float) -> Setting:
    # Decay within Adam's gradient is a part of what Adam divides by its own size: λ goes with 1/a², as under SGD.
    found = rescaled(recipe.setting, a, b, "sgd" if recipe.optimizer == "sgd" else "adam")
    if recipe.zero == "a":  # what is drawn is B
        found = replace(found, init_a=b)
    if recipe.optimizer == "adam":
        found = replace(found, decay_a=recipe.weight_decay / a**2, decay_b=recipe.weight_decay / b**2)
    return found


def four_times_alpha(recipe: Recipe) -> str:
    """Is α × 4 the same as the rate × 4? In a sentence, computed."""
    moved, start = ("B", "A") if checked(recipe).zero == "b" else ("A", "B")
    rate = 4**recipe.power
    alpha = 4 ** (2 / recipe.power)
    init = 4 ** (1 / recipe.power)
    return (
        f"no: α × 4 is {moved}'s rate × {rate} alone ({start}'s stays), both rates × 4 are α × {alpha:g} with {start} "
        f"starting at 1/{init:g} of its size"
    )


def warm_up(step: int, steps: int) -> float:
    """The share of the full rate at a step of transformers' linear warm-up: 0 at the first, whole after `steps`."""
    return min(1.0, (count("step", step) - 1) / max(1, count("steps", steps, 0))) if steps else 1.0


def lines(
    recipe: Recipe, clip: float | None = None, warmup_steps: int = 0, factor: float = 1.0, output: float = 1.0
) -> Iterator[tuple[str, str]]:
    """The rates in words; `factor` and `output` as in `rates`."""
    found, moved = rates(recipe, factor, output), "B" if recipe.zero == "b" else "A"
    by = "" if found.scaling == 1 else f", {found.scaling**recipe.power:.4g} times its own"
    yield "scaling", f"s = {found.scaling:.4g} = α/{'√r' if recipe.rslora else 'r'}"
    yield "rate of A", f"{found.a:.4g} at s = 1" + (by if moved == "A" else ", its own: α does not change it")
    yield "rate of B", f"{found.b:.4g} at s = 1" + (by if moved == "B" else ", its own: α does not change it")
    yield "first step of BA", _first_step(recipe, found) + as_many_times(found.times_loras)
    if clip := non_negative("max_grad_norm", clip or 0.0):
        yield "clipping", _clipping(recipe, clip)
    if count("warmup_steps", warmup_steps, 0):
        share = warm_up(2, warmup_steps)
        yield (
            "warm-up",
            f"transformers' linear warm-up: the first step is at rate 0, the second at {share:.3g} of the full rate, "
            f"step {warmup_steps + 1} is the first at all of it",
        )
    if recipe.weight_decay:
        yield "weight decay", _decay(recipe, found)


def _first_step(recipe: Recipe, found: Rates) -> str:
    if found.first_step is None:
        return "depends on the layer's inputs n₂; give --width"
    drawn = "A" if recipe.zero == "b" else "B"
    if recipe.optimizer == "sgd":
        told = f"full fine-tuning's at rate {found.first_step:.3g}, in the mean over {drawn}"
        if recipe.zero == "a":  # how long it is depends on the layer's outputs
            return told
        longer = found.first_step / expected_cosine(recipe.r, recipe.width)
        return f"{told}; itself as long as full fine-tuning's at rate {longer:.3g}"
    share, told = found.first_step / recipe.lr, f"moves an entry by {found.first_step:.3g} (RMS)"
    return f"{told}, {share:.3g} times what full fine-tuning at this rate does{_above_eps(recipe)}"


def as_many_times(times: float) -> str:
    """A rule's first step over LoRA's, `Rates.times_loras`, in words."""
    return "" if times == 1 else f" (LoRA's times {times:.4g})"


def _clipping(recipe: Recipe, clip: float) -> str:
    if recipe.optimizer == "sgd":
        longest = recipe.lr * clip * max(1, recipe.loraplus_ratio)
        return f"at {clip:g}: no step is longer than {longest:.3g} over all of A and B"
    return f"at {clip:g}: the first step is the same, because Adam divides a common factor out{_above_eps(recipe)}"


def _above_eps(recipe: Recipe) -> str:
    return f", where gradients are far above ε = {recipe.eps:g}" if recipe.eps > Recipe.eps else ""


def rule_on_gradients(optimizer: str, clip: float | None) -> str:
    """A factor on gradients is "on", "on, but …" or "undone, …" under "sgd" or an Adam ("adam", "adamw") that clips
    gradients of a norm above `clip` (0 or None: none).

    Clipping divides by the norm of all gradients, √(η²‖g‖² + ‖h‖²) at BA = 0, g LoRA's of A and B, h the rest's (a
    classifier's), where LoRA's is √(‖g‖² + ‖h‖²): of η it leaves 1 at h = 0 and nearly all where ‖h‖ ≫ η‖g‖.
    """
    if optimizer != "sgd":
        return "undone, Adam divides a gradient's factor out again; ALLoRAAdamW puts it on the update"
    if not clip:
        return "on"
    return (
        f"on, but for clipping at {clip:g}, which divides the factor out of a longer gradient as far as A and B make "
        "up its norm (hardly where a trained classifier's gradient does)"
    )


def _decay(recipe: Recipe, found: Rates) -> str:
    if recipe.optimizer == "adam":
        start = "A" if recipe.zero == "b" else "B"
        return (
            f"within Adam's gradient: {start}'s first step is {recipe.lr:g} towards 0 in each entry, whatever the "
            "decay is; AdamW's is apart"
        )
    a, b = (1 - left for left in found.decay_left)
    told = f"{a:.2%} of A and of B" if a == b else f"{a:.2%} of A and {b:.2%} of B"
    return f"takes {told} in 1,000 steps at the full rate"


def start_at_zero(rank: int, width: int, ruled: bool = False) -> str:
    """What starting at B = 0 costs: not a bad place, but a first step along r of the gradient's directions; `ruled`:
    by a layer of ALLoRA's, whose config takes no other start along the gradient.
    """
    how = "plain LoRA's 'lora_ga'; allora_config does not take it" if ruled else "init_lora_weights='lora_ga'"
    return (
        f"costs the first step's direction: its cosine with full fine-tuning's is about "
        f"{expected_cosine(rank, width):.2g} under gradient descent, √(r/(n₂ + r + 1)); a start along the gradient "
        f"({how}) has the most that a rank allows"
    )


def factor_at_width(knobs: tuple[float, float], rank: int, width: int, eta: float) -> str:
    """Whether ALLoRA's factor tapers in a layer of this width; `knobs` are the scaling and B's rate over A's."""
    kept, needed = flow_factor(knobs, width, rank, eta), flow_eta_to_taper(knobs, width, rank)
    word = "a constant" if kept > 1 - SHARE else "it tapers"
    return (
        f"{word}: {kept:.3g} of η on average over rows once a linear teacher of n = {width} is learned; "
        f"below {1 - SHARE:g} from η = {needed:.3g} on"
    )


def eta_to_taper(norms: Sequence[float], eta: float) -> str:
    """The η at which the mean factor would taper at these row norms."""
    return f"from η = {taper(norms, eta).eta_to_taper:.3g} on it is below nine tenths on average"


def span(low: float, high: float) -> str:
    """From the one to the other in three digits, or the one number that both are."""
    first, last = f"{low:.3g}", f"{high:.3g}"
    return first if first == last else f"{first} to {last}"


def stable_step(eta: float) -> str:
    """What the factor does to the largest stable step while rows are short."""
    return (
        f"1/η = {1 / eta:.3g} of LoRA's while rows of BA are short, as ALLoRA's factor "
        "1/√(‖(BA)_i‖ + 1/η²) is η there; more as they grow: one over the factor, at a good fit"
    )


def stable_step_at(least: float, most: float) -> str:
    """The same at the factors of the longest and of the shortest row."""
    low, high = (1 / one if one else math.inf for one in (most, least))
    return (
        f"{span(low, high)} of LoRA's here, at a good fit and with the factor on the gradient (SGD): one over "
        "ALLoRA's factor, from its largest to its smallest row"
    )


def ripple(shares: Sequence[float]) -> str:
    """Whether adapters of these ‖BA‖/‖W‖ multiply from layer to layer (Proposition 1) or only add up."""
    added, grown = sum(shares), math.expm1(min(sum(map(math.log1p, shares)), 700))
    word = "linearly" if grown < (1 + SHARE) * added else "more than linearly at worst"
    return (
        f"BA moves the output {word}: it is {median(shares):.2g} of the weight in the median layer, and multiplied "
        f"through all {len(shares)}, §3.3's worst case, {grown:.3g} against {added:.3g} added up; ALLoRA's η acts on "
        "this by BA's size alone, and with norms, as in transformers, it is not exponential"
    )


def dropout_pays(drop_rate: float) -> str:
    """When: on white inputs flow under dropout is that without it towards keep_prob of the fit, 1/keep_prob as fast."""
    keep_prob = 1 - drop_rate
    return (
        "late, if at all; for a linear layer, squared loss and uncorrelated inputs: in a few steps the mean of BA is "
        "as without it and the masks add "
        f"noise; at the end BA is {keep_prob:.3g} of the fit, which takes off at most {1 - keep_prob**2:.2g} of the "
        "error that noise in the labels causes"
    )
