"""A transformer whose every linear map is W + ηBA, run at any η, real or complex: what §3.3's product becomes there.

With x ↦ (W + ηBA)x in place of every map, a block is h + o·P·v and h + down(act(up)), or down(act(gate) ⊙ up), with a
normalization N inside the branch ("pre": Llama), after the sum ("post": BERT) or nowhere ("none"). Then, exactly:

- **Logits** of a block's attention are a quadratic in η for a given input: q and k each carry one factor W + ηBA.
- **A polynomial** is the output only without softmax and normalization and for act the identity. Attention that is
  linear, (q·k)v, makes a stream of degree d one of 3d + 4, the maps after it one of d + 2 (2d + 3 where gated):
  `degree`. The degree is exponential in L, so that log‖f_L‖ itself is at large η; the paper's product has degree L.
- **Softmax** averages: ‖Σ_j p_jv_j‖ ≤ max‖v_j‖ for every η. Its poles, the zeros of Σ_j e^{ℓ_j(η)}, and the branch
  points of N, the zeros of N's mean square, bound the disc in which the output is a power series in η (`series.py`).
- **Normalized** inside the branch, ‖N(·)‖ = √n whatever came before: with ρ(M) = ‖W‖ + η‖BA‖,
  ‖h_L‖ ≤ ‖h₀‖ + √n Σ_l [√H ρ(o)ρ(v) + ρ(down)ρ(up)] (the latter times √n·ρ(gate) where gated; H heads, softmax, no
  biases, |act(x)| ≤ |x|): linear in L, of degree 2 or 3 in η for every L (`stream_bound`). Normalized after the sum, or
  by a final N, the output has length √n.

So Proposition 1 keeps its exponential in L where nothing is normalized, and there alone. Every function here that is
analytic in η takes a complex η, which is how `series.py` reads off coefficients and radius, and how a derivative costs
one pass: f(h + iεv) = f(h) + iεJv + O(ε²), ε = `STEP`. Checked by `tests/test_ripple_transformer.py` against a plain
double loop, and by `tests/test_claims_pretrained_ripple.py` against transformers' own BERT and Llama.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Inexact

from allora_analysis import validation
from allora_analysis.ripple.bounds import adapter_norm
from allora_analysis.validation import ArgumentError

STEP = 1e-150  # of a derivative: exact while it grows by less than 1e142, its square is nothing beside 1
NORMS = ("none", "pre", "post")
Eta = complex | Inexact[np.ndarray, "_ 1 1"] | Inexact[np.ndarray, "_ 1 1 1"]


class AdaptedMap(NamedTuple):
    """x ↦ (W + ηBA)x + bias: W (n₁×n₂), B (n₁×r), A (r×n₂), bias (n₁) or 0; or stacks of them, a map an input."""

    w: np.ndarray
    b: np.ndarray
    a: np.ndarray
    bias: np.ndarray | float = 0.0

    def __call__(self, x: Inexact[np.ndarray, "*batch n2"], eta: Eta) -> Inexact[np.ndarray, "*batch n1"]:
        """Apply it at η."""
        y = _times(x, self.w) + self.bias
        return y if not np.any(eta) else y + eta * _times(_times(x, self.a), self.b)

    def norm(self, eta: float) -> float:
        """‖W‖ + η‖BA‖, spectral."""
        return float(np.linalg.norm(self.w, 2) + eta * adapter_norm(self.b, self.a))


def _times(x: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    # x @ matrixᵀ; a complex x against a real matrix as two real products.
    turned = np.swapaxes(matrix, -1, -2)
    if not np.iscomplexobj(x):
        return x @ turned
    return x.real @ turned + 1j * (x.imag @ turned)


class Normalisation(NamedTuple):
    """z ↦ gain·z/√(mean z² + ε) + shift, z centered first for a LayerNorm, as it is for an RMSNorm."""

    gain: np.ndarray | float = 1.0
    shift: np.ndarray | float = 0.0


@dataclass(frozen=True)
class Design:
    """What a transformer's blocks are made of.

    Attributes:
        heads: of the attention.
        norm: "none", "pre" (inside the branch, and once after the last block) or "post" (after each sum).
        centred: LayerNorm; False: RMSNorm.
        epsilon: under the root.
        softmax: attention; False: linear attention, the logits themselves as weights.
        causal: no token sees a later one.
        activation: "identity", "relu", "gelu" or "silu".
        gated: down(act(gate) ⊙ up) in place of down(act(up)).
        key_heads: heads of keys and values, shared by groups of query heads; None: as many.
        rope: the base of rotary positions; None: none.
    """

    heads: int = 1
    norm: str = "pre"
    centred: bool = False
    epsilon: float = 0.0
    softmax: bool = True
    causal: bool = False
    activation: str = "gelu"
    gated: bool = False
    key_heads: int | None = None
    rope: float | None = None

    @property
    def maps(self) -> tuple[str, ...]:
        """The names of a block's linear maps."""
        return ("q", "k", "v", "o", *(("gate",) if self.gated else ()), "up", "down")


@dataclass(frozen=True)
class Transformer:
    """Blocks of adapted maps by name, two normalizations for each, and the one after the last block ("pre")."""

    design: Design
    blocks: tuple[Mapping[str, AdaptedMap], ...]
    norms: tuple[tuple[Normalisation, Normalisation], ...]
    final: Normalisation = field(default_factory=Normalisation)


@dataclass
class Pass:
    """One forward pass.

    Attributes:
        streams: h_0, …, h_L, each (…, T, n).
        weights: a block's attention, (…, H, T, T).
        output: h_L, normalized once more where the design is "pre".
        squares: what stood under the norms' roots, (…, T, 1) each.
        partitions: what softmax and SiLU divided by, up to factors without a zero.
    """

    streams: list[np.ndarray] = field(default_factory=list)
    weights: list[np.ndarray] = field(default_factory=list)
    output: np.ndarray = field(default_factory=lambda: np.empty(0))
    squares: list[np.ndarray] = field(default_factory=list)
    partitions: list[np.ndarray] = field(default_factory=list)


def forward(model: Transformer, x: Inexact[np.ndarray, "*batch T n"], eta: Eta) -> Pass:
    """Run a transformer on x = h₀, after the embedding, at η, complex if need be; or at one η for each input of the
    batch, as an array (batch × 1 × 1).

    Examples:
        >>> import numpy as np
        >>> from allora_analysis.ripple import transformer
        >>> model = transformer.draw(transformer.Design(norm="post"), 3, 8, 2, 0.1, np.random.default_rng(0))
        >>> found = transformer.forward(model, np.eye(8)[:4], eta=100.0)
        >>> print(np.linalg.norm(found.output, axis=1).round(6))  # √8, whatever η and depth
        [2.828427 2.828427 2.828427 2.828427]
    """
    done, design, h = Pass([x]), model.design, x
    for maps, (first, second) in zip(model.blocks, model.norms, strict=True):
        for norm, branch in ((first, _attention), (second, _feed_forward)):
            if design.norm == "pre":
                h = h + branch(design, maps, _normalised(design, norm, h, done), eta, done)
            else:
                h = h + branch(design, maps, h, eta, done)
                h = _normalised(design, norm, h, done) if design.norm == "post" else h
        done.streams.append(h)
    done.output = _normalised(design, model.final, h, done) if design.norm == "pre" else h
    return done


def _normalised(design: Design, norm: Normalisation, z: np.ndarray, done: Pass) -> np.ndarray:
    z = z - z.mean(axis=-1, keepdims=True) if design.centred else z
    square = (z * z).mean(axis=-1, keepdims=True) + design.epsilon
    done.squares.append(square)
    return norm.gain * (z / np.sqrt(square)) + norm.shift


def _attention(design: Design, maps: Mapping[str, AdaptedMap], u: np.ndarray, eta: Eta, done: Pass) -> np.ndarray:
    logits = attention_logits(design, maps, u, eta)
    values = _heads(maps["v"](u, eta), design.key_heads or design.heads)
    values = values.repeat(design.heads // values.shape[-3], axis=-3)
    if design.softmax:
        seen = np.tril(np.ones(logits.shape[-2:], bool)) if design.causal else np.ones(logits.shape[-2:], bool)
        # Divided by e to the mean logit, which has no zero, and by a real number, which turns no phase.
        logits = logits - (logits * seen).sum(axis=-1, keepdims=True) / seen.sum(axis=-1, keepdims=True)
        shift = np.where(seen, logits.real, -np.inf).max(axis=-1, keepdims=True)
        powers = np.where(seen, np.exp(np.where(seen, logits - shift, 0)), 0)
        total = powers.sum(axis=-1, keepdims=True)
        done.partitions.append(total)
        weights = powers / total
    else:
        weights = np.tril(logits) if design.causal else logits
    done.weights.append(weights)
    mixed = np.swapaxes(weights @ values, -3, -2)
    return maps["o"](mixed.reshape(*mixed.shape[:-2], -1), eta)


def attention_logits(
    design: Design, maps: Mapping[str, AdaptedMap], u: Inexact[np.ndarray, "*batch T n"], eta: Eta
) -> Inexact[np.ndarray, "*batch H T T"]:
    """q·k/√d of each head: a quadratic in η where u does not depend on it."""
    q, k = (_heads(maps[name](u, eta), n) for name, n in (("q", design.heads), ("k", design.key_heads or design.heads)))
    if design.rope is not None:
        q, k = _rotated(q, design.rope), _rotated(k, design.rope)
    k = k.repeat(design.heads // k.shape[-3], axis=-3)
    return q @ np.swapaxes(k, -1, -2) / math.sqrt(q.shape[-1])


def _heads(z: np.ndarray, heads: int) -> np.ndarray:
    return np.swapaxes(z.reshape(*z.shape[:-1], heads, -1), -3, -2)


def _rotated(z: np.ndarray, base: float) -> np.ndarray:
    # Rotary positions, halves paired as Llama pairs them.
    tokens, half = z.shape[-2], z.shape[-1] // 2
    angles = np.arange(tokens)[:, None] * base ** (-np.arange(half) / half)
    cos, sin = np.cos(angles), np.sin(angles)
    one, other = z[..., :half], z[..., half:]
    return np.concatenate([one * cos - other * sin, other * cos + one * sin], axis=-1)


def _feed_forward(design: Design, maps: Mapping[str, AdaptedMap], u: np.ndarray, eta: Eta, done: Pass) -> np.ndarray:
    act, up = ACTIVATIONS[design.activation], maps["up"](u, eta)
    inner = act(maps["gate"](u, eta), done) * up if design.gated else act(up, done)
    return maps["down"](inner, eta)


def _gelu(z: np.ndarray, done: Pass) -> np.ndarray:
    from scipy.special import erf

    return 0.5 * z * (1 + erf(z / math.sqrt(2)))


def _silu(z: np.ndarray, done: Pass) -> np.ndarray:
    with np.errstate(over="ignore"):  # e^∞ on the far side: z/∞ = 0
        below = 1 + np.exp(np.minimum(-z.real, 700) - 1j * z.imag if np.iscomplexobj(z) else -z)
    done.partitions.append(below)
    return z / below


ACTIVATIONS: Mapping[str, Callable[[np.ndarray, Pass], np.ndarray]] = {
    "identity": lambda z, done: z,
    "relu": lambda z, done: z * (z.real > 0),  # not analytic: no series in η
    "gelu": _gelu,
    "silu": _silu,
}


def draw(
    design: Design,
    depth: int,
    width: int,
    rank: int,
    size: float,
    generator: np.random.Generator,
    hidden: int | None = None,
    count: int | None = None,
) -> Transformer:
    """A transformer at random, gains 1: entries of W and A of variance 1/n₂, B's such that ‖(BA)_i‖/‖W_i‖ = size in
    mean square.

    `width` is a multiple of the heads, an even one under rope, `hidden` the width between up and down; None: the
    stream's. With a `count` so many transformers, stacked: each map is a map an input. Refuses other numbers.
    """
    validation.choice("norm", design.norm, NORMS)
    validation.choice("activation", design.activation, tuple(ACTIVATIONS))
    depth, width = validation.count("depth", depth), validation.count("width", width)
    validation.count("heads", design.heads)
    if width % design.heads or design.heads % (design.key_heads or design.heads):
        raise ArgumentError(f"heads must divide the width {width}, and key_heads them; received {design.heads}")
    if design.rope is not None and width // design.heads % 2:
        raise ArgumentError(f"rope turns pairs: an even width of a head wanted, received {width // design.heads}")
    validation.adapter_rank(rank, width, width)
    size = validation.non_negative("size", size)
    inner = width if hidden is None else validation.count("hidden", hidden)
    narrow = width * (design.key_heads or design.heads) // design.heads
    shapes = {"k": (narrow, width), "v": (narrow, width), "down": (width, inner)}
    shapes |= dict.fromkeys(("gate", "up"), (inner, width))
    stack = () if count is None else (validation.count("count", count),)

    def one(n1: int, n2: int) -> AdaptedMap:
        w, a = (generator.standard_normal((*stack, rows, n2)) / math.sqrt(n2) for rows in (n1, rank))
        return AdaptedMap(w, generator.standard_normal((*stack, n1, rank)) * size / math.sqrt(rank), a)

    blocks = tuple({name: one(*shapes.get(name, (width, width))) for name in design.maps} for _ in range(depth))
    return Transformer(design, blocks, ((Normalisation(), Normalisation()),) * depth)


def with_adapters(model: Transformer, row_norm: float, rank: int, generator: np.random.Generator) -> Transformer:
    """A transformer's own weights, and adapters at random whose rows ‖(BA)_i‖ have this root mean square."""

    def one(own: AdaptedMap) -> AdaptedMap:
        n1, n2 = own.w.shape
        b = generator.standard_normal((n1, rank)) * row_norm / math.sqrt(rank)
        return own._replace(b=b, a=generator.standard_normal((rank, n2)) / math.sqrt(n2))

    return replace(model, blocks=tuple({name: one(own) for name, own in block.items()} for block in model.blocks))


def turned_at_random(model: Transformer, generator: np.random.Generator) -> Transformer:
    """The same transformer with adapters at random in its adapters' places, of each one's rank and mean row norm."""

    def one(own: AdaptedMap) -> AdaptedMap:
        (n1, rank), n2 = own.b.shape, own.a.shape[1]
        size = math.sqrt(max(float(np.sum((own.b.T @ own.b) * (own.a @ own.a.T))), 0.0) / n1)
        b = generator.standard_normal((n1, rank)) * size / math.sqrt(rank)
        return own._replace(b=b, a=generator.standard_normal((rank, n2)) / math.sqrt(n2))

    return replace(model, blocks=tuple({name: one(own) for name, own in block.items()} for block in model.blocks))


def derivative(
    model: Transformer, x: Float[np.ndarray, "*batch T n"], v: Float[np.ndarray, "*batch T n"], eta: Eta
) -> tuple[Pass, list[np.ndarray], np.ndarray]:
    """A pass at a real η, and J_l v of every stream h_l and of the output, J_l = ∂h_l/∂h₀: one pass at h₀ + iεv."""
    run = forward(model, x + 1j * STEP * v, eta)
    real = Pass([h.real for h in run.streams], [p.real for p in run.weights], run.output.real)
    return real, [h.imag / STEP for h in run.streams], run.output.imag / STEP


def degree(depth: int, design: Design) -> int:
    """The output's degree in η with linear attention and nothing else: 3(3^L − 1), or 11(6^L − 1)/5 where gated."""
    d = 0
    for _ in range(depth):
        d = 3 * d + 4
        d = 2 * d + 3 if design.gated else d + 2
    return d


def stream_bound(model: Transformer, eta: float) -> float:
    """The largest that log(‖h_L‖/√n) of a token can be, natural logarithm: in the module's docstring.

    Additive in the blocks for "pre", their product for "none", 0 for "post"; of tokens h₀ no longer than √n. Refuses
    η < 0 and a transformer of which it is no bound: other gains or shifts, or without "post" linear attention or
    biases, or gated with "none".
    """
    design, log_size, eta = model.design, 0.0, validation.non_negative("eta", eta)
    norms = () if design.norm == "none" else [norm for pair in model.norms for norm in pair]
    free = design.norm != "post"  # else the last norm says it all
    lacking = {
        "norms of gain 1 and shift 0": all(np.all(norm.gain == 1) and not np.any(norm.shift) for norm in norms),
        "softmax attention": design.softmax or not free,
        "no biases": not (free and any(np.any(one.bias) for maps in model.blocks for one in maps.values())),
        "norms, as it is gated": not (design.gated and design.norm == "none"),
    }
    if wanted := [name for name, is_so in lacking.items() if not is_so]:
        raise ArgumentError(f"model must have {' and '.join(wanted)} for this bound to hold")
    if design.norm == "post":
        return 0.0
    for maps in model.blocks:
        norm = {name: one.norm(eta) for name, one in maps.items()}
        attention = math.sqrt(design.heads) * norm["o"] * norm["v"]
        forward_ = (
            norm["down"] * norm["up"] * norm.get("gate", 1.0) * (math.sqrt(maps["o"].w.shape[0]) if design.gated else 1)
        )
        for branch in (attention, forward_):
            added = math.log(branch) + (log_size if design.norm == "none" else 0.0)
            log_size = float(np.logaddexp(log_size, added))
    return log_size


BERT = {"q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value"}
BERT |= {"o": "attention.output.dense", "up": "intermediate.dense", "down": "output.dense"}
LLAMA = {name: f"self_attn.{name}_proj" for name in "qkvo"} | {n: f"mlp.{n}_proj" for n in ("gate", "up", "down")}
PRETRAINED = {"bert": "gelu", "llama": "silu", "qwen2": "silu"}  # the kinds that can be read, and their activations
Adapters = Mapping[str, tuple[np.ndarray, np.ndarray]]  # A and B by the linear map's name


def transformer_of(model: Any, adapters: Adapters) -> Transformer:
    """A pretrained BERT, Llama or Qwen2 of transformers, with a head or none, as a `Transformer` in float64.

    s·B stands in B's place; maps without an adapter get 0. Refuses a model of another kind, or another model's adapter.
    Checked by `tests/test_doctor_strength.py`.
    """
    own, kind = model.config, model.config.model_type
    if kind not in PRETRAINED or own.hidden_act != PRETRAINED[kind]:
        known = ", ".join(f"{name} with {act}" for name, act in PRETRAINED.items())
        act = getattr(own, "hidden_act", "another activation")
        raise ArgumentError(f"model: {kind} with {act} cannot be read as blocks of linear maps; give one of {known}")
    names = BERT if kind == "bert" else LLAMA
    base = model.base_model
    stack = base.encoder.layer if names is BERT else base.layers

    def array(value: Any) -> np.ndarray:
        return value.detach().double().numpy()

    def norm(module: Any) -> Normalisation:
        return Normalisation(array(module.weight), array(module.bias) if hasattr(module, "bias") else 0.0)

    def one(block: int, name: str) -> AdaptedMap:
        linear = stack[block].get_submodule(name)
        linear = getattr(linear, "base_layer", linear)
        n1, n2 = linear.weight.shape
        a, b = next((pair for key, pair in adapters.items() if key.endswith(f".{block}.{name}")), (None, None))
        bias = 0.0 if linear.bias is None else array(linear.bias)
        a, b = (np.zeros((1, n2)), np.zeros((n1, 1))) if a is None else (a, b)
        if (len(b), a.shape[1]) != (n1, n2):
            raise ArgumentError(
                f"adapters: {name} of block {block} is {n1}×{n2} in the model, {len(b)}×{a.shape[1]} in the adapter; "
                "give the model that it was trained on"
            )
        return AdaptedMap(array(linear.weight), b, a, bias)

    blocks = tuple({key: one(i, name) for key, name in names.items()} for i in range(len(stack)))
    if names is BERT:
        design = Design(own.num_attention_heads, "post", True, own.layer_norm_eps)
        norms = tuple((norm(layer.attention.output.LayerNorm), norm(layer.output.LayerNorm)) for layer in stack)
        return Transformer(design, blocks, norms)
    design = Design(own.num_attention_heads, "pre", False, own.rms_norm_eps, True, True, "silu", True)
    rope = own.rope_parameters["rope_theta"]
    design = dataclasses.replace(design, key_heads=own.num_key_value_heads, rope=float(rope))
    norms = tuple((norm(layer.input_layernorm), norm(layer.post_attention_layernorm)) for layer in stack)
    return Transformer(design, blocks, norms, norm(base.norm))


def row_norm(model: Transformer) -> tuple[float, float]:
    """The mean row norm of the adapters BA, and of the weights."""
    maps = [one for block in model.blocks for one in block.values()]
    adapters = [np.sqrt(np.sum((one.b @ (one.a @ one.a.T)) * one.b, axis=1)).mean() for one in maps]
    return float(np.mean(adapters)), float(np.mean([np.linalg.norm(one.w, axis=1).mean() for one in maps]))
