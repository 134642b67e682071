"""A transformer at one real η by loops over tokens and heads, its maps merged. Imports nothing from the package."""

import itertools
import math

import numpy as np


def merged(block, eta):
    return {name: one.w + eta * one.b @ one.a for name, one in block.items()}


def normalise(z, centred):
    z = z - z.sum() / len(z) if centred else z
    return z / math.sqrt((z**2).sum() / len(z))


def attention(maps, rows, heads, softmax, causal):
    q, k, v = ([maps[name] @ row for row in rows] for name in "qkv")
    d, mixed = len(q[0]) // heads, []
    for i in range(len(rows)):
        parts = []
        for head in range(heads):
            own = slice(head * d, (head + 1) * d)
            seen = range(i + 1) if causal else range(len(rows))
            logits = [q[i][own] @ k[j][own] / math.sqrt(d) for j in seen]
            weights = [math.exp(one) for one in logits] if softmax else logits
            total = sum(weights) if softmax else 1.0
            parts.append(sum(p / total * v[j][own] for p, j in zip(weights, seen, strict=True)))
        mixed.append(maps["o"] @ np.concatenate(parts))
    return mixed


ACT = {
    "identity": lambda z: z,
    "relu": lambda z: max(z, 0.0),
    "gelu": lambda z: z * 0.5 * math.erfc(-z / math.sqrt(2)),
    "silu": lambda z: z * 0.5 * (1 + math.tanh(z / 2)),
}


def feed_forward(maps, row, activation, gated):
    up = maps["up"] @ row
    inner = np.array([ACT[activation](z) for z in (maps["gate"] @ row if gated else up)])
    return maps["down"] @ (inner * up if gated else inner)


def output(blocks, x, eta, heads, norm, centred, softmax, causal, activation, gated):
    h = list(x)
    for block in blocks:
        maps = merged(block, eta)
        before = [normalise(row, centred) for row in h] if norm == "pre" else h
        h = [a + b for a, b in zip(h, attention(maps, before, heads, softmax, causal), strict=True)]
        h = [normalise(row, centred) for row in h] if norm == "post" else h
        before = [normalise(row, centred) for row in h] if norm == "pre" else h
        h = [a + feed_forward(maps, row, activation, gated) for a, row in zip(h, before, strict=True)]
        h = [normalise(row, centred) for row in h] if norm == "post" else h
    return np.array([normalise(row, centred) for row in h] if norm == "pre" else h)


def linear_block_coefficients(block, x, heads):
    """c_k of one block with linear attention, neither normalized nor activated, over all choices of W or BA."""
    names, terms = ("q", "k", "v", "o", "up", "down"), [np.zeros_like(x) for _ in range(15)]

    def chosen(picked):
        return {name: (one.b @ one.a if picked[name] else one.w) for name, one in block.items()}

    middle = [np.zeros_like(x) for _ in range(5)]
    middle[0] = middle[0] + x
    for taken in itertools.product((0, 1), repeat=4):
        maps = chosen(dict(zip(names[:4], taken, strict=True), up=0, down=0))
        middle[sum(taken)] = middle[sum(taken)] + np.array(attention(maps, list(x), heads, False, False))
    for k, part in enumerate(middle):
        terms[k] = terms[k] + part
        for taken in itertools.product((0, 1), repeat=2):
            maps = chosen({"q": 0, "k": 0, "v": 0, "o": 0, "up": taken[0], "down": taken[1]})
            terms[k + sum(taken)] = terms[k + sum(taken)] + part @ (maps["down"] @ maps["up"]).T
    return np.array(terms[:7])
