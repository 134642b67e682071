"""§3.3 in a transformer: attention, normalizations, and a feed-forward part whose every map is W + ηBA.

The paper multiplies linear layers; these rows ask what is left of its sentences where LoRA is used. Toys are drawn here
(tokens, residual blocks, float64), so that the rows are judged on fresh draws; pretrained models are
`s3_3_pretrained`'s. m̄ is ‖BA‖/‖W‖ of a map, by rows. Checked by `tests/test_claims_3_3_in_a_transformer.py`.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from allora_analysis.claims.cases import (
    ETA_M,
    ETA_M_SMOLLM2,
    NEAR,
    PAPER_ETAS,
    Case,
    Cases,
    log_uniform,
    source_of_errors,
    standard_errors,
)
from allora_analysis.claims.claim import Finding, claim, ranged
from allora_analysis.finetune.sources import INSTRUCT
from allora_analysis.ripple import mean_field, transformer
from allora_analysis.ripple.transformer import AdaptedMap, Design, Transformer

in_a_transformer = partial(claim, test="tests/test_ripple_transformer.py")
WIDTH, RANK, REPLICAS, DOUBLED = 24, 8, 8, math.log(2)
PLAIN = 64  # replicas without normalization, whose output scatters


class Blocks(NamedTuple):
    """Networks of 2L blocks at m̄ = 1: where they are normalized, tokens, η; aligned (the worst case) or at random.

    Their branches are about `scale` times as long as the stream at η = 0, longer where gated. At random so many
    replicas are drawn, three times as many for the gradient.
    """

    norm: str
    depth: int
    eta: float
    tokens: int
    aligned: bool
    scale: float = 1.0
    gated: bool = False
    replicas: int = REPLICAS

    @property
    def words(self) -> str:
        """The case in a line."""
        kind = "aligned" if self.aligned else f"at random, {self.tokens} tokens"
        size = ", gated" if self.gated else "" if self.scale == 1 else f", branches {self.scale:g} of the stream"
        return f"norm {self.norm}, {kind}{size}, L = {self.depth}, η = {self.eta:.3g}"

    @property
    def doubled(self) -> float:
        """Lγ/log 2 without normalization, γ what η adds to log growth in a block: exponential growth shows above 1.

        At random log √E‖h‖² of one token stands for the mean of log‖h‖.
        """
        if self.aligned:
            gain = 2 * steepest_gain(self)
        else:
            squares = np.array([1.0, 0.5]) * self.scale**2  # ReLU halves what the feed-forward part adds
            gain = float(np.log((1 + squares * (1 + self.eta**2) ** 2) / (1 + squares)).sum()) / 2
        return self.depth * gain / DOUBLED

    def scaled(self, model: Transformer) -> Transformer:
        """Every W and every BA of a network times √scale: two of them are in a branch."""
        if self.scale == 1:
            return model
        root = math.sqrt(self.scale)
        blocks = [
            {name: one._replace(w=root * one.w, b=root * one.b) for name, one in maps.items()} for maps in model.blocks
        ]
        return dataclasses.replace(model, blocks=tuple(blocks))


def of_length(x: np.ndarray) -> np.ndarray:
    """Each row at length √n."""
    return x * math.sqrt(x.shape[-1]) / np.linalg.norm(x, axis=-1, keepdims=True)


def tokens_of(count: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Tokens at random of length √n."""
    return of_length(rng.standard_normal((count, width)))


def aligned(one: Blocks, rng: np.random.Generator) -> tuple[Transformer, np.ndarray]:
    """Every W and every BA is uuᵀ, the token √n·u, and u a unit vector where gated: branches as long as their bound."""
    x = math.sqrt(WIDTH) * np.eye(1, WIDTH) if one.gated else np.abs(tokens_of(1, WIDTH, rng))
    u = x[0] / np.linalg.norm(x)
    same = AdaptedMap(np.outer(u, u), u[:, None], u[None, :])
    drawn = transformer.draw(
        Design(norm=one.norm, activation="relu", gated=one.gated), 2 * one.depth, WIDTH, 1, 1.0, rng
    )
    whole = dataclasses.replace(drawn, blocks=(dict.fromkeys(drawn.design.maps, same),) * (2 * one.depth))
    return one.scaled(whole), x


def steepest(one: Blocks, rng: np.random.Generator) -> tuple[Transformer, np.ndarray, np.ndarray]:
    """A stream that keeps its length along u, and a direction v across it that every attention multiplies alike.

    W = uuᵀ + vvᵀ, BA = vvᵀ, both times √s, the token √n·u; the feed-forward part takes off what attention adds along
    u, where normalized in the branch, and passes nothing along v, where ReLU's input is 0.
    """
    u, v = np.eye(2, WIDTH)
    pair = [AdaptedMap(sign * np.outer(u, u) + np.outer(v, v), v[:, None], v[None, :]) for sign in (1, -1)]
    design = Design(norm=one.norm, activation="relu")
    drawn = transformer.draw(design, 2 * one.depth, WIDTH, 1, 1.0, rng)
    maps = dict.fromkeys(design.maps, pair[0]) | ({"down": pair[1]} if one.norm == "pre" else {})
    whole = dataclasses.replace(drawn, blocks=(maps,) * (2 * one.depth))
    return one.scaled(whole), math.sqrt(WIDTH) * u[None, None], v[None, None]


def added(one: Blocks, rng: np.random.Generator, gradient: bool = False) -> dict[str, float]:
    """What η adds to mean log‖h‖, or to log‖Jv‖, at L and 2L blocks; `off`: ‖h‖ from its closed form, over the allowed.

    The closed form: of the worst case `stream_bound`; with one token, of E‖h‖² in `moments`, a mean over networks.
    """
    if gradient and one.aligned:
        model, start, way = steepest(one, rng)
    else:
        model, start, way = _networks(one, rng, 3 if gradient else 1)
    x, v = (np.broadcast_to(part, (2, *part.shape)) for part in (start, way))
    etas = np.array([0.0, one.eta]).reshape(2, 1, 1, 1)
    streams = derivatives(model, x, v, etas) if gradient else transformer.forward(model, x, etas).streams
    logs = (_log_norms(streams[at]) for at in (one.depth, 2 * one.depth))
    once, twice = (float(np.diff(of, axis=0).mean()) for of in logs)
    if gradient:
        return {"L": once, "2L": twice}
    return {"L": once, "2L": twice, "off": _off(one, model, np.square(streams[-1][1]).mean(axis=(1, 2)))}


def steepest_gain(one: Blocks) -> float:
    """log((1 + s(1 + η)²)/(1 + s)): what η adds to log‖Jv‖ in a block of `steepest`, s its branch over the stream.

    In a branch of `aligned` without normalization, to log‖h‖.
    """
    return math.log((1 + one.scale * (1 + one.eta) ** 2) / (1 + one.scale))


def _log_norms(rows: np.ndarray) -> np.ndarray:
    # Also where a square overflows.
    largest = np.abs(rows).max(axis=-1, keepdims=True)
    return np.log(np.linalg.norm(rows / largest, axis=-1)) + np.log(largest[..., 0])


def _networks(one: Blocks, rng: np.random.Generator, times: int = 1) -> tuple[Transformer, np.ndarray, np.ndarray]:
    # Transformers, stacked, so many times the replicas at random; their tokens and a direction each.
    if one.aligned:
        model, x = aligned(one, rng)
        return model, x[None], rng.standard_normal((1, *x.shape))
    count = times * one.replicas  # a gradient's logarithm scatters
    design = Design(heads=2, norm=one.norm, activation="relu")
    model = one.scaled(transformer.draw(design, 2 * one.depth, WIDTH, RANK, 1.0, rng, count=count))
    x, v = rng.standard_normal((2, count, one.tokens, WIDTH))
    return model, of_length(x), v


def derivatives(model: Transformer, x: np.ndarray, v: np.ndarray, eta: np.ndarray) -> list[np.ndarray]:
    """J_l v of every stream."""
    return transformer.derivative(model, x, v, eta)[1]


def predicted(model: Transformer, eta: float) -> float:
    """E‖h_L‖²/n of one token, normalized in the branch; of stacked networks in the mean."""
    return float(np.mean([math.exp(mean_field.moments(one, eta).log_stream[-1]) for one in _each(model)]))


def _each(model: Transformer) -> list[Transformer]:
    # The networks of a stack.
    def one(place: int) -> Transformer:
        blocks = [
            {name: AdaptedMap(*(part[place] for part in whole[:3])) for name, whole in maps.items()}
            for maps in model.blocks
        ]
        return dataclasses.replace(model, blocks=tuple(blocks))

    return [one(place) for place in range(len(model.blocks[0]["q"].w))]


def _off(one: Blocks, model: Transformer, squares: np.ndarray) -> float:
    if one.aligned:
        return float(abs(0.5 * np.log(squares[0]) - transformer.stream_bound(model, one.eta))) / 1e-9
    if one.norm == "post":
        return float(np.abs(squares - 1).max()) / 1e-9
    if one.norm == "none" or one.tokens > 1:
        return 0.0  # a mean square that a few networks decide, or attention's averaging: not in closed form
    gaps = squares - predicted(model, one.eta)
    return float(abs(gaps.mean()) / (gaps.std(ddof=1) / math.sqrt(len(gaps))) / standard_errors(len(gaps)))


def exponential(one: Blocks, seen: dict[str, float]) -> bool:
    """Doubling L more than doubles the factor by which η enlarges it: linear growth from ‖h₀‖ at most doubles it."""
    return seen["2L"] - seen["L"] > DOUBLED


def explodes(one: Blocks, seen: dict[str, float]) -> bool:
    """At 2L blocks η has at least doubled it, and added more than one and a half times what it added at L."""
    return seen["2L"] > max(1.5 * seen["L"], DOUBLED)


def drawn(rng: np.random.Generator, gradient: bool) -> Blocks:
    """A case at random, or aligned; of the output also with branches that are short beside the stream."""
    norm, eta = str(rng.choice(transformer.NORMS)), log_uniform(rng, 0, math.log(10))
    one = Blocks(norm, int(rng.integers(6, 9)), eta, int(rng.choice([1, 4])), bool(rng.random() < 0.4))
    if not gradient and norm == "none":
        return _plain(rng, one)
    if gradient or rng.random() < 0.5:
        return one
    return one._replace(scale=float(rng.choice([0.1, 0.01, 0.002])))


def _plain(rng: np.random.Generator, one: Blocks) -> Blocks:
    """Depth, η and lengths at random, no nearer to the condition's boundary than means tell.

    That is a hundredth where aligned; at random a factor of 1.5, as the formula is of √E‖h‖², up to a fifth above the
    mean of log‖h‖.
    """
    one = one._replace(depth=int(rng.integers(4, 17)), replicas=PLAIN)
    while True:
        eta, scale = log_uniform(rng, math.log(0.01), math.log(10)), log_uniform(rng, math.log(0.2), 0)
        one = one._replace(eta=eta, scale=scale)
        off = abs(math.log(one.doubled))
        if math.log(1.01 if one.aligned else 1.5) < off < math.log(NEAR):
            return one


def recorded(gradient: bool) -> list[Case]:
    """ηm̄ as in our runs, by induced norms, normalized as Llama and BERT are; of the output also without norms."""
    sizes, kinds = (ETA_M, ETA_M_SMOLLM2), (False, True)
    own = [Blocks("pre", 12, size, 4, kind) for size in sizes for kind in kinds]
    own += [Blocks("post", 12, size, 4, True) for size in sizes]
    plain = [Blocks("none", 12, size, 1, kind, replicas=PLAIN) for size in sizes for kind in kinds]
    plain += [Blocks("none", depth, ETA_M_SMOLLM2, 1, True) for depth in (24, 25)]
    return [Case(one.words, one, True) for one in own] + [Case(one.words, one) for one in plain if not gradient]


def known(gradient: bool) -> list[Case]:
    """As Llama and BERT are normalized, at the paper's η and ‖BA‖ = ‖W‖, and without normalization; `recorded`."""
    kinds = (False, True)
    own = [Blocks(norm, 8, eta, 4, kind) for norm in ("pre", "post") for eta in PAPER_ETAS for kind in kinds]
    own += [Blocks("pre", 8, eta, 1, True, gated=True) for eta in PAPER_ETAS if not gradient]
    plain = [Blocks("none", 8, 2.0, count, kind) for count in (1, 4) for kind in kinds if count == 1 or not kind]
    near = (0.24, 0.25, 0.41, 0.45)  # Lγ of 0.6, 0.6, 1.6 and 2 log 2
    plain += [Blocks("none", 8, eta, 1, False, replicas=PLAIN) for eta in near if not gradient]
    short = [Blocks("pre", 8, eta, 1, True, scale) for eta, scale in ((4.0, 0.002), (10.0, 0.01), (100.0, 1e-4))]
    others = own + plain + ([] if gradient else short)
    return recorded(gradient) + [Case(one.words, one) for one in others]


def _ratios_at_random(measure: Callable[[Blocks], dict[str, float]], replicas: int) -> list[float]:
    # What η adds at 16 blocks normalized in the branch over that at 8, at each of the paper's η, four tokens.
    runs = [measure(Blocks("pre", 8, eta, 4, False, replicas=replicas)) for eta in PAPER_ETAS]
    return [seen["2L"] / seen["L"] for seen in runs]


@in_a_transformer(
    "3.3-transformer",
    where='beyond the paper: §3.3, Proposition 1, in a transformer, "In the worst case" and at random',
    says="In a transformer, too, η may make the output grow exponentially with the number of layers.",
    reading="The output is the residual stream after the last block, the largest of networks whose maps have given ‖W‖ "
    "and ‖BA‖, or its mean at random. Growth shows as exponential at L where doubling L more than doubles the factor "
    "by which η enlarges it, which linear growth from ‖h₀‖ never does (3.3-worst-case and the gradient's worst case "
    "ask for a rate, however small). Of the gradient: 3.3-transformer-gradient, 3.3-transformer-gradient-at-random.",
    depends_on=("3.3-worst-case", "3.3-residual"),
)
def output_grows(cases: Cases) -> Finding:
    """Attention and feed-forward blocks normalized in the branch, after the sum or nowhere, aligned and at random."""
    judged = cases.judge(
        known(False) + cases.draw(partial(drawn, gradient=False), 8),
        lambda one: added(one, cases.rng),
        printed=exponential,
        corrected=lambda one, seen: seen["off"] <= 1,
        condition=lambda one: one.norm == "none" and one.doubled,
    )
    llama = [Blocks("pre", 8, eta, 4, True) for eta in PAPER_ETAS]
    own = [seen["2L"] / seen["L"] for case, seen in judged.pairs if case.inputs in llama]
    at_random = float(np.mean(_ratios_at_random(lambda one: added(one, cases.rng), 210)))
    return judged.finding(
        conditional="Only without normalization, given enough blocks (the gradient: 3.3-transformer-gradient).",
        evidence=judged.evidence(
            f"off, in what is allowed: {source_of_errors(REPLICAS)}; worst cases and post-norm to 1e-9",
            {
                "log growth added at 2L less that at L": "without normalization Lγ (worst case), as much as at L; "
                "with it in the branch at most log 2; none after the sum"
            },
            tolerance=1.0,
            error=max(seen["off"] for _, seen in judged.pairs),
            n=REPLICAS,
        ),
        size=ranged(
            own,
            "times",
            "log growth due to η at 16 blocks over that at 8 (exponential: 2), branches normalized and as long as the "
            f"stream, η² 1 to 4, ‖BA‖ = ‖W‖, worst case; at random {at_random:.1f}",
        ),
        condition="no normalization, and Lγ > log 2, γ what η adds to log growth in a block: in the worst case "
        "2 log((1 + s(1 + ηm̄)²)/(1 + s)), s a branch's length over the stream's at η = 0, both branches alike; at "
        "random, where Lγ and log 2 are a factor of 1.5 apart (of √E‖h‖², up to a fifth above the mean of "
        "log‖h‖), ½ Σ_c log((1 + cs²(1 + η²m̄²)²)/(1 + cs²)), c = 1 and ½. "
        "With norms of gain 1 in the branch: ‖h_L‖ ≤ ‖h₀‖ + √n Σ_l(√H ρ_oρ_v + "
        "ρ_downρ_up), where gated with √n ρ_gate beside ρ_up, ρ = ‖W‖ + η‖BA‖, H heads; after the sum: ‖h_L‖ = √n. One "
        "network's factor may grow faster, where without η its stream shrinks",
        flips_if="norms of the maps of like blocks, normalized, at which doubling L more than doubles the factor by "
        "which η enlarges the largest stream; or without normalization, depths above log 2/γ at which it does not",
    )


def _gradient_cases(cases: Cases, aligned: bool) -> list[Case]:
    """Those of `known` and fresh draws, all aligned, of longer and shorter branches, or all at random."""

    def draw(rng: np.random.Generator) -> Blocks:
        one = drawn(rng, gradient=True)._replace(aligned=aligned)
        return one._replace(scale=log_uniform(rng, math.log(0.2), math.log(5))) if aligned else one

    return [case for case in known(True) if case.inputs.aligned is aligned] + cases.draw(draw, 4)


@in_a_transformer(
    "3.3-transformer-gradient",
    where="beyond the paper: §3.3, first paragraph, of the gradient in a transformer",
    says="In a transformer η may make the gradient grow exponentially with the number of layers.",
    reading='"May": some maps of given ‖W‖ and ‖BA‖, as in 3.3-transformer. It grows exponentially, by what comes back '
    "through the blocks: what η adds to log‖J v‖, J the derivative of the last stream in the first, is above 0 and "
    "proportional to L, a rate, however small and at any L, as in 3.3-worst-case. A norm bounds the stream, not "
    f"the derivative across it. At the paper's setting ‖ηBA‖ is {ETA_M:.0%} of ‖W‖, MiniLM's average but for its "
    f"pooler, or {ETA_M_SMOLLM2:.1%}, SmolLM2's (3.3-comparable-level-induced), of which 24 blocks make little (size)."
    + INSTRUCT,
    depends_on=("3.3-transformer", "3.3-unstable", "3.3-comparable-level-induced"),
)
def gradient_grows(cases: Cases) -> Finding:
    """The derivative along the direction that every block of `steepest` multiplies alike, against its closed form."""

    def as_told(one: Blocks, seen: dict[str, float]) -> bool:
        gains = (seen["L"] / one.depth, seen["2L"] / (2 * one.depth))
        return max(abs(gain - steepest_gain(one)) for gain in gains) <= 1e-9

    judged = cases.judge(
        _gradient_cases(cases, aligned=True),
        lambda one: added(one, cases.rng, gradient=True),
        printed=lambda one, seen: seen["L"] > 0 and as_told(one, seen),
    )
    own = [math.exp(seen["L"] / of.inputs.depth) for of, seen in judged.pairs if of.inputs.eta in PAPER_ETAS]
    in_24 = {case.inputs.eta: seen["2L"] for case, seen in judged.pairs if case.paper}
    minilm, smollm2 = in_24[ETA_M], in_24[ETA_M_SMOLLM2]
    block = math.exp(minilm / 24)
    short, longest = (math.exp(steepest_gain(Blocks("pre", 8, 2.0, 4, True, scale))) for scale in (0.1, 1e9))
    return judged.finding(
        holds=f"Yes, as a rate: {max(own):.2g}-fold a block at ‖BA‖ = ‖W‖, η = 2; recorded "
        f"norms: {math.exp(smollm2 / 24):.2f} to {block:.2f}.",
        evidence=judged.evidence(
            "the closed form to 1e-9",
            lambda one: {"L": one.depth * steepest_gain(one), "2L": 2 * one.depth * steepest_gain(one)},
        ),
        size=ranged(
            own,
            "times a block",
            f"what η² = 4 multiplies it by, ‖BA‖ = ‖W‖, branches as long as the stream (s = 1; a tenth as long: "
            f"{short:.1f}, never more than {longest:.0f}); down to η = 1 ({block:.2f} times where ‖ηBA‖ is {ETA_M:.0%} "
            f"of ‖W‖, MiniLM's average but for its pooler: {math.exp(minilm):.0f} times in all in 24 blocks; "
            f"{math.exp(smollm2):.1f} at SmolLM2's {ETA_M_SMOLLM2:.1%})",
            max(own),
        ),
        flips_if="a norm or an η above 0 at which the maps W = √s(±uuᵀ + vvᵀ) and BA = √s vvᵀ, for a stream along u, "
        "add to the log gradient along v other than L times log((1 + s(1 + η)²)/(1 + s)), s a branch's length over the "
        "stream's at η = 0",
    )


@in_a_transformer(
    "3.3-transformer-gradient-at-random",
    where="beyond the paper: §3.3, first paragraph, of the gradient in a transformer",
    says="In a transformer at random, too, η makes the gradient grow exponentially with the number of layers.",
    reading="As in 3.3-transformer-gradient, along a direction at random, for branches as long as the stream, L from 6 "
    "to 16, up to 4 tokens, and ‖ηBA‖ from 1 to 10 times ‖W‖, or with norms as small as recorded. A rate at random can "
    "only be estimated: it counts as exponential where η at least doubles ‖J v‖ in 2L blocks and adds more than 1.5 "
    "times as much to its logarithm as in L, so that where ηBA is small beside W none shows without norms either.",
    depends_on=("3.3-transformer-gradient",),
)
def random_gradient_grows(cases: Cases) -> Finding:
    """The derivative along a direction at random, blocks at random: E‖Jv‖² and E‖Jᵀv‖² are one number, ‖J‖²_F/n."""
    judged = cases.judge(
        _gradient_cases(cases, aligned=False),
        lambda one: added(one, cases.rng, gradient=True),
        printed=explodes,
        condition=lambda one: one.norm == "none",
    )
    return judged.finding(
        conditional="Only without normalization: with norms it grows as a power of depth, or fades.",
        evidence=judged.evidence(
            "a threshold of 1.5",
            {"added at 2L over that at L": "2 without normalization; about 1 with it"},
            n=3 * REPLICAS,
        ),
        size=ranged(
            _ratios_at_random(lambda one: added(one, cases.rng, gradient=True), 70),
            "times",
            "what η adds to the log gradient through 16 blocks, normalized in the branch, over 8 (2 is exponential), "
            "η² 1 to 4, 4 tokens, rows of BA as long as W's, 210 networks each",
        ),
        condition="no normalization. With norms in the branch E‖Jv‖² is multiplied by 1 + χβ/(1 + lβ) in block l, β "
        "the mean square that a branch adds: 1 + Lβ for one token, χ = 1; with several, attention's logits make χ of "
        "the order of η² at large η (ripple.mean_field.logit_gain computes it), until tokens are alike; after the sum "
        "it rises until then",
        flips_if="normalized blocks at random, branches as long as the stream, whose log gradient gains more than 1.5 "
        "times as much from η at 2L as at L",
    )
