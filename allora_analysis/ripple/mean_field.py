"""What a transformer at random does, predicted: streams and gradients block by block, and attention's entropy.

Streams and gradients: entries of W, B and A independent with mean 0. A map multiplies the mean square of what it is
given by γ(η) = (‖W‖²_F + η²‖BA‖²_F)/n₁; a branch adds, on average, nothing along the stream, so that mean squares add:

    m ← m + β      where β = γ_oγ_v·κ·i, and then γ_down·E[act(√(γ_up i) z)²] (times γ_up i, act of the gate, where
    gated), g ← g(1 + χβ/m),   g = E‖J_l v‖² for a unit v, χ = branch's mean-square derivative over its size, per unit
    of input,

i the mean square of the branch's input: 1 (times the gain's) if normalized, and there g's denominator m is the
stream's; m itself if not. After each sum "post" divides m and g by the new m. χ is 1 for linear maps and ReLU, and then
"pre" telescopes, ∏(1 + β/(1 + lβ)) = 1 + Lβ: **√L and of degree 2 or 3 in η for stream and gradient**, where "none"
has (1 + β)^L and "post" 1. κ = E‖Σ_jp_ju_j‖²/E‖u‖² ≤ 1 is what attention's averaging leaves: 1 for one token.
In expectation m is exact for one token and act ReLU or the identity; g up to O(1/n). With several tokens the softmax
adds a derivative through the logits: δℓ_j = (δq·k_j + q·δk_j)/√d of variance 2σ²|δ|², into Σ_j p_j(δℓ_j − Σpδℓ)v_j, so

    χ = 1 + 2σ²·E‖diag p − ppᵀ‖²_F/E Σp²    for attention, σ² = γ_qγ_k i² the logits' variance (`logit_gain`),

for orthogonal tokens, as in a first block. About 2σ² where attention is uniform, and of the order of σ where it is
sharp, as ties become rare: χ grows as η², and g at most about as L^χ, a power of L whose degree grows with η. Deeper
tokens share a part, which the softmax does not see, and values that are alike: there it is an upper estimate, and
`moments` counts it only where it is told T.

Entropy: of T logits that are independent and N(0, σ²) (the random energy model, Derrida 1981; in transformers Cowsik et
al. 2024, arXiv 2403.02579). With Gumbel's γ_j, log Z + γ has the law of max_j(σz_j + γ_j): E log Z = F(σ) is an
integral of Φ's powers, and E H = F − σF′. In a first block with orthogonal tokens it is exact with
σ² = (1 + η²m²χ²_r/r)(1 + η²m²χ′²_r/r)χ²_d/d, d a head's width: **σ grows as η², and the entropy falls as 1/η²**.
Checked by `tests/test_ripple_mean_field.py`.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from allora_analysis.ripple.transformer import ACTIVATIONS, STEP, AdaptedMap, Normalisation, Pass, Transformer

SPACING = 0.1  # of the trapezoidal rule over a standard normal variable
WIDE = 30.0  # σ beyond which a softmax's ties are rare
LEAST = 1e-4  # of σ: below, attention is uniform to 1e-8


class Moments(NamedTuple):
    """Logarithms of the mean squares of stream and gradient after each block, from h₀ (L + 1 each)."""

    log_stream: np.ndarray
    log_gradient: np.ndarray


def moments(model: Transformer, eta: float, start: float = 1.0, mixing: float = 1.0, tokens: int = 1) -> Moments:
    """Logarithms of E‖h_l‖²/n and of E‖J_l v‖², l = 0, …, L, of a transformer with maps at random of the Frobenius
    norms that this one has: its norms and design count, not its directions.

    `start` is the mean square of h₀'s entries; `mixing`, κ, is 1 where there is one token; `tokens`, T, is for the
    gradient through the logits, an upper estimate after the first block, and 1 leaves it out.
    """
    norm, size, gradient = model.design.norm, math.log(start), 0.0
    sizes, gradients = [size], [gradient]
    for maps, norms in zip(model.blocks, model.norms, strict=True):
        for branch, own in ((_attention, norms[0]), (_feed_forward, norms[1])):
            given = math.log(_mean_square(own)) if norm == "pre" else size
            added, chi = branch(model, maps, eta, given, mixing, tokens)
            gradient += float(np.logaddexp(0.0, math.log(chi) + added - size))
            size = float(np.logaddexp(size, added))
            if norm == "post":
                gradient, size = gradient + math.log(_mean_square(own)) - size, math.log(_mean_square(own))
        sizes.append(size)
        gradients.append(gradient)
    return Moments(np.array(sizes), np.array(gradients))


def _mean_square(own: Normalisation) -> float:
    return float(np.mean(np.square(own.gain)))


def _log_gain(one: AdaptedMap, eta: float) -> float:
    # log γ: what a map of these norms does to a mean square.
    return math.log((np.square(one.w).sum() + eta**2 * np.sum((one.b.T @ one.b) * (one.a @ one.a.T))) / len(one.w))


def _attention(model: Transformer, maps, eta: float, given: float, mixing: float, tokens: int) -> tuple[float, float]:
    added = given + math.log(mixing) + _log_gain(maps["v"], eta) + _log_gain(maps["o"], eta)
    if tokens == 1 or not model.design.softmax:
        return added, 1.0
    sigma = math.exp(given + 0.5 * (_log_gain(maps["q"], eta) + _log_gain(maps["k"], eta)))
    return added, 1.0 + logit_gain(sigma, tokens)


def _standard_normal(scale: float) -> tuple[Float[np.ndarray, " nodes"], Float[np.ndarray, " nodes"]]:
    # Nodes z = sinh(t)/(1 + scale) and weights: as dense about 0 as act(scale·z) bends there.
    half = math.ceil(math.asinh(9 * (1 + scale)) / SPACING)
    t = SPACING * (np.arange(-half, half) + 0.5)
    z = np.sinh(t) / (1 + scale)
    weights = np.exp(-z * z / 2) * np.cosh(t)
    return z, weights / weights.sum()


def _feed_forward(
    model: Transformer, maps, eta: float, given: float, mixing: float, tokens: int
) -> tuple[float, float]:
    inner = given + _log_gain(maps["gate" if model.design.gated else "up"], eta)
    scale = math.exp(0.5 * inner)
    z, weights = _standard_normal(scale)
    value = ACTIVATIONS[model.design.activation](scale * z + 1j * STEP, Pass())
    square, slope = weights @ value.real**2, scale**2 * (weights @ (value.imag / STEP) ** 2)
    added = math.log(square) + _log_gain(maps["down"], eta)
    if not model.design.gated:
        return added, slope / square
    return added + given + _log_gain(maps["up"], eta), slope / square + 1


def attention_entropy(sigma: float, tokens: int) -> float:
    """Entropy of a softmax over T independent N(0, σ²) logits, natural logarithm, in expectation; to 1e-6.

    Examples:
        >>> from allora_analysis.ripple.mean_field import attention_entropy
        >>> print(round(attention_entropy(0.0, 8), 6))  # log 8
        2.079442
    """
    if tokens == 1:
        return 0.0
    from scipy.special import ndtr

    sigma = max(sigma, LEAST)
    u = np.arange(-9 * sigma - 5, 9 * sigma + 40, 0.1 * max(1.0, sigma / 4))[:, None]
    if sigma < 1:  # below(u) = P(σz + γ < u), averaged over z
        z = np.linspace(-9, 9, 181)
        weights, power = np.exp(-z * z / 2), np.exp(sigma * z - u)
        weights /= weights.sum()
        below, falling = np.exp(-power) @ weights, (z * power * np.exp(-power)) @ weights  # falling: −∂below/∂σ
    else:  # averaged over γ
        y = np.arange(-4.0, 40.0, 0.05)
        weights, z = np.exp(-y - np.exp(-y)), (u - y) / sigma
        weights /= weights.sum()
        below, falling = ndtr(z) @ weights, (z * np.exp(-z * z / 2)) @ weights / (math.sqrt(2 * math.pi) * sigma)
    step = float(u[1, 0] - u[0, 0])
    log_partition = float(u[-1, 0]) - step * float(np.sum(below**tokens) - below[-1] ** tokens / 2) - np.euler_gamma
    rising = step * float(np.sum(tokens * below ** (tokens - 1) * falling))  # F′
    return max(0.0, log_partition - sigma * rising)


def logit_gain(sigma: float, tokens: int) -> float:
    """2σ²E‖diag p − ppᵀ‖²_F/E Σp², what attention's logits add to χ; T independent N(0, σ²) logits, to 1e-4.

    By 1/Z^k = ∫t^{k−1}e^{−tZ}dt/Γ(k): E p_j²p_k² and the like are integrals over t of products of one-token means.
    Beyond σ = 30, where ties are rare, the gain is taken as proportional to σ, which is right to 2 %. T ≥ 2.

    Examples:
        >>> from allora_analysis.ripple.mean_field import logit_gain
        >>> print(round(logit_gain(0.1, 4) / 0.01, 2))  # 2σ²(1 − 1/T) where attention is uniform
        1.49
    """
    if sigma > WIDE:
        return sigma / WIDE * logit_gain(WIDE, tokens)
    z = np.linspace(-8, 8, 1 + 320 * max(1, math.ceil(sigma / 4)))
    chance = np.exp(-z * z / 2) / np.exp(-z * z / 2).sum()
    u = np.linspace(-8 * sigma - 12 - math.log(tokens), 8 * sigma + 5, 600)[:, None]
    # Of one token: E p̃^k e^{−p̃}, p̃ = te^{σz}; the powers of t are in them, and dt/t = du.
    level, step = u + sigma * z, float(u[1, 0] - u[0, 0])
    one = [np.exp(k * np.minimum(level, 9.0) - np.exp(np.minimum(level, 9.0))) @ chance for k in range(5)]

    def mean(values: np.ndarray, others: int, gamma: int) -> float:
        return step * float(np.sum(values * one[0] ** (tokens - others))) / gamma

    second, third = tokens * mean(one[2], 1, 1), tokens * mean(one[3], 1, 2)
    fourth = tokens * mean(one[4], 1, 6) + tokens * (tokens - 1) * mean(one[2] ** 2, 2, 6)
    return 2 * sigma**2 * (second - 2 * third + fourth) / second
