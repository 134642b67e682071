"""The explorables: closed forms that move in the browser, a page for each, and the figures that other pages show.

Their mathematics is `static/explore/formulas.js`, their charts `static/explore/draw.js`; `tests/test_site_formulas.py`
holds the one against this package, `tests/test_site_browser.py` opens the other.
"""

from dataclasses import dataclass

from markupsafe import Markup

from allora_analysis.arms import ARMS
from allora_analysis.plotting import COLOURS

WAIT = "The sliders are here once scripts run and the page comes from a web server."


@dataclass(frozen=True)
class Explorable:
    """One of them: its title, what it says in Markdown, its functions, and the claims whose pages show it."""

    title: str
    text: str
    functions: tuple[str, ...]
    claims: tuple[str, ...]


EXPLORABLES = {
    "ridge": Explorable(
        "Dropout beside ridge",
        "Dropout on the output keeps the same share p of every direction of the data. Ridge keeps s²/(s² + λ): much of "
        "the strong directions, little of the weak ones. They agree only where all singular values are equal.",
        ("tikhonov.ridge.nearest_ridge",),
        ("3.1-equal-spectrum", "3.1-unit-eigenvalue", "3.1-general-spectrum", "3.1-implicit-regularizer"),
    ),
    "pays": Explorable(
        "When dropout pays",
        "Under plain SGD dropout's mean is regularized descent from the first step; what it costs is variance, at "
        "every step. Whether the sum pays depends on the noise in the labels, and on whether plain training may stop "
        "in time. Eight rows, four weights of equal size, l = 0.1·p over s_max²; risks are exact expectations over "
        "masks and noise.",
        ("dropout_sgd.moments.trajectory",),
        ("3.1-sgd-crossover", "3.1-sgd-benefits-vanish", "3.1-sgd-variance", "3.1-not-a-must-have"),
    ),
    "hessian": Explorable(
        "LoRA's Hessian at zero",
        "At B = 0 with A random the loss has a slope, so LoRA does not start at a saddle point. It has negative "
        "curvature all the same: q ± √(q² + σ²) for every curvature q of B's block and singular value σ of the "
        "gradient. Here q and σ fall off as 1, 1/2, 1/3, …; B and A have 12 rows and columns.",
        ("hessian.factors.factor_spectrum",),
        ("3.2-saddle-lora", "3.2-saddle-starts", "3.2-semidefinite", "3.2-escape"),
    ),
    "leaving": Explorable(
        "Leaving zero",
        "From B = 0 a row of BA grows by ηgl in ALLoRA's first step of SGD, as LoRA's does at learning rate η·l, and "
        "more slowly the longer it is. Under AdamW the factor on the gradient divides out again.",
        ("escape.scalar.trajectory", "escape.scalar.lora_trajectory"),
        ("4-escape", "4-figure-2-right", "4-figure-2-slower", "4-effective-rate", "4-escape-optimisers"),
    ),
    "ripple": Explorable(
        "The ripple effect",
        "A constant scaling factor makes the output grow exponentially with depth: at the rate log(1 + ηm̄) in the "
        "worst case, where all layers line up, and far more slowly in a network at random.",
        ("ripple.bounds.worst_case", "ripple.growth.growth_exponent"),
        ("3.3-worst-case", "3.3-typical", "3.3-small-eta", "3.3-theta-in-depth", "3.3-product"),
    ),
    "weight": Explorable(
        "One weight and one mask",
        "The mask keeps the output with probability p, then divided by p, or drops it. The mean of the two losses is "
        "least at p times the weight that fits: in expectation, dropout shrinks.",
        ("tikhonov.loss.expected_loss",),
        ("3.1-expectation", "3.1-minimiser"),
    ),
    "step": Explorable(
        "One step, 200 masks",
        "Each dot is one step of SGD with one mask, from weights that fit the data. Their mean is a step of descent on "
        "the regularized objective: dropout regularizes in its first step. Their spread is what it costs.",
        ("dropout_sgd.moments.trajectory",),
        ("3.1-sgd-expectation", "3.1-sgd-first-step"),
    ),
}


def figure(name: str) -> Markup:
    """An explorable as HTML; `scripts` make it move.

    Args:
        name: one of `EXPLORABLES`.

    Returns:
        A <figure>.
    """
    arms = {arm.replace("_", "-"): ARMS[arm].colour for arm in ("lora", "lora_eta", "allora", "allora_adamw")}
    roles = {role: colour for role, colour in COLOURS.items() if role != "measured"}
    tones = "; ".join(f"--{key}: {tone}" for key, tone in (arms | roles).items())
    return Markup(
        f'<figure class="explorable" data-explore="{name}" style="{tones}"><figcaption>{WAIT}</figcaption></figure>'
    )


def scripts(root: str) -> str:
    """The HTML that loads what a page with explorables needs.

    Args:
        root: the way from the page to the site's root, "" or "../".
    """
    return (
        f'<link rel="stylesheet" href="{root}explore/uPlot.css"><script src="{root}explore/uPlot.js" defer></script>'
        f'<script type="module" src="{root}explore/draw.js"></script>'
    )


def of_claim(identifier: str) -> Markup:
    """The explorable that a claim's page shows; empty where none fits."""
    found = [name for name, one in EXPLORABLES.items() if identifier in one.claims]
    return figure(found[0]) if found else Markup()


def pages() -> dict[str, str]:
    """A page for each, and one that leads to them.

    Returns:
        Markdown by the page's path.
    """
    made = {}
    for name, one in EXPLORABLES.items():
        claims = ", ".join(f"`{claim}`" for claim in one.claims)
        functions = ", ".join(f"[`{path}`][allora_analysis.{path}]" for path in one.functions)
        made[f"explore/{name}.md"] = (
            f"# {one.title}\n\n{one.text}\n\n{figure(name)}\n\nThe claims it is about: {claims}. "
            f"The closed form in Python: {functions}.\n"
        )
    listed = "\n".join(
        f"- [{one.title}]({name}.md): {one.text.partition('.')[0]}." for name, one in EXPLORABLES.items()
    )
    about = "Closed forms that move with their sliders, in the browser alone."
    made["explore/index.md"] = f"---\ntitle: Explore\n---\n\n# Explore\n\n{about}\n\n{listed}\n"
    return made
