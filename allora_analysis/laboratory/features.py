"""Dropout on a language model's features: LoRA W = BA by SGD and AdamW, its trials, their records.

`python -m experiments.dropout_features` runs the list and states the question; `claims.s3_1_small_runs` judges it.
Checked by `tests/test_claims_3_1_on_features.py`, beside torch's own optimizers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from allora_analysis import records

STUDY, PROTOCOL = "dropout_features", 1
RESULTS = records.results_folder(STUDY)
MODEL, DATA = "all-MiniLM-L6-v2", "rotten_tomatoes"
BETAS, EPSILON = (0.9, 0.999), 1e-8
DECAYS = {"sgd": (0.001, 0.01, 0.1), "adamw": (0.1, 1.0, 10.0)}
SLOWEST = {"sgd": 10**-2.5, "adamw": 10**-4.5}


@dataclass(frozen=True)
class Trial:
    """One optimizer on so many sentences; model and data as records call them."""

    optimizer: str  # "sgd", its decay a part of the loss, or "adamw", its decay apart
    sentences: int | None  # of training, drawn by each seed; None: all
    model: str = MODEL
    data: str = DATA
    rank: int = 8
    batch_size: int = 32
    drop_rates: tuple[float, ...] = (0.05, 0.2, 0.5)  # of the masks on the features
    rates: int = 7  # of learning, half a decade apart, how many
    times: tuple[int, ...] = (0, 20, 40, 60, 80, 100, 150, 200, 250, 300, 350, 400)  # of losses; the last: the length
    tuning: int = 4  # seeds that choose the rates, from 1000
    seeds: int = 20  # that judge
    first_seed: int = field(default=0, metadata=records.LATER)  # of those

    @property
    def arms(self) -> tuple[tuple[float, float], ...]:
        """Drop rate and weight decay of each arm: without either, with dropout, with decay."""
        decays = DECAYS[self.optimizer]
        return ((0.0, 0.0), *((drop, 0.0) for drop in self.drop_rates), *((0.0, decay) for decay in decays))

    @property
    def learning_rates(self) -> tuple[float, ...]:
        """Those that are tried."""
        return tuple(SLOWEST[self.optimizer] * 10 ** (step / 2) for step in range(self.rates))

    @property
    def words(self) -> str:
        """The trial in a few words."""
        return f"{'AdamW' if self.optimizer == 'adamw' else 'SGD'}, {self.sentences or 'all'} sentences"


TRIALS = tuple(Trial(optimizer, sentences) for sentences in (100, None) for optimizer in ("sgd", "adamw"))
FRESH = tuple(Trial(optimizer, None, seeds=100, first_seed=20) for optimizer in ("sgd", "adamw"))
"""Trials that judge `3.1-few-steps-minilm` alone."""


class Features(NamedTuple):
    """Centered features (N×n₂, float32, mean square 1 in training) and labels of the three splits."""

    train: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


def log_losses(x: np.ndarray, labels: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Mean cross-entropy of softmax(xW), for each W of a stack."""
    logits = np.swapaxes(w, 1, 2) @ x.T  # classes one below the other: sums over them are then fast
    logits -= logits.max(axis=1, keepdims=True)
    chosen = logits[:, labels, np.arange(len(labels))]
    return np.mean(np.log(np.exp(logits).sum(axis=1)) - chosen, axis=1)


def softmax_slopes(inputs: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """∂/∂A and ∂/∂B of the mean cross-entropy of softmax(XAᵀBᵀ), for each X, A and B of a stack; float32."""
    hidden = inputs @ np.swapaxes(a, 1, 2)
    logits = b @ np.swapaxes(hidden, 1, 2)
    chances = np.exp(logits - logits.max(axis=1, keepdims=True))
    delta = (chances / chances.sum(axis=1, keepdims=True) - y.T) / np.float32(len(y))
    return np.swapaxes(b, 1, 2) @ delta @ inputs, delta @ hidden


def trained(features: Features, trial: Trial, columns: list[tuple[float, float, float]], seed: int) -> np.ndarray:
    """Losses (times × 2 × columns) on validation and test sentences; columns are drop rate, decay and learning rate.

    Columns share A at the start, the sentences, the batches and the uniform numbers that masks come from.
    """
    generator = np.random.default_rng([seed, 1923])
    drops, decays, rates = (np.array(part, np.float32)[:, None, None] for part in zip(*columns, strict=True))
    x, labels = features.train
    own = generator.permutation(len(x))[: trial.sentences]
    passes = trial.times[-1] * trial.batch_size // len(own) + 1
    order = np.concatenate([generator.permutation(own) for _ in range(passes)])
    classes, width = int(labels.max()) + 1, x.shape[1]
    a = np.repeat(generator.standard_normal((1, trial.rank, width), np.float32) / np.float32(width**0.5), len(rates), 0)
    b = np.zeros((len(rates), classes, trial.rank), np.float32)
    state = [np.zeros_like(part) for part in (a, a, b, b)]
    found = []
    for step in range(trial.times[-1] + 1):
        if step in trial.times:
            found.append([log_losses(*one, np.swapaxes(b @ a, 1, 2)) for one in (features.validation, features.test)])
        batch = order[step * trial.batch_size : (step + 1) * trial.batch_size]
        kept = generator.random((len(batch), width), np.float32)
        inputs = x[batch] * ((kept >= drops) / (1 - drops))
        slopes = softmax_slopes(inputs, np.eye(classes, dtype=np.float32)[labels[batch]], a, b)
        if trial.optimizer == "sgd":
            a, b = (m - rates * (g + decays * m) for m, g in zip((a, b), slopes, strict=True))
        else:
            a, b = (
                m - rates * (_adam(g, state[2 * i : 2 * i + 2], step + 1) + decays * m)
                for i, (m, g) in enumerate(zip((a, b), slopes, strict=True))
            )
    return np.array(found, dtype=float)


def _adam(gradient: np.ndarray, state: list[np.ndarray], step: int) -> np.ndarray:
    # Adam's direction; the two moments are updated in place.
    for moment, beta, value in zip(state, BETAS, (gradient, gradient**2), strict=True):
        moment += (1 - beta) * (value - moment)
    mean, square = (moment / (1 - beta**step) for moment, beta in zip(state, BETAS, strict=True))
    return mean / (np.sqrt(square) + EPSILON)


def tuned(losses: np.ndarray) -> np.ndarray:
    """The index of the learning rate with the least mean loss, by arm; rates that diverged come last."""
    return np.where(np.isfinite(losses), losses, math.inf).argmin(axis=1)


def run(features: Features, trial: Trial) -> dict[str, Any]:
    """What is recorded of a trial: the rates chosen, and the judging seeds' losses at them.

    `tuning` holds the mean validation loss over the tuning seeds, the least along training and the one at its end, by
    arm and learning rate. `one_rate`: test losses (seeds × times × arms) at the rate that is best at the end without
    dropout and decay. `own_rate`: validation and test losses (seeds × times × 2 × arms), each arm at the rate
    whose least loss is least.
    """
    every = [(*arm, rate) for arm in trial.arms for rate in trial.learning_rates]
    with np.errstate(over="ignore", invalid="ignore"):  # a rate may diverge
        tried = np.array([trained(features, trial, every, 1000 + seed)[:, 0] for seed in range(trial.tuning)])
    tried = np.where(np.isfinite(tried), tried, math.inf).reshape(trial.tuning, len(trial.times), -1, trial.rates)
    least, last = tried.min(axis=1).mean(axis=0), tried[:, -1].mean(axis=0)
    one, own = (np.array(trial.learning_rates)[tuned(of)] for of in (last, least))
    columns = [(*arm, one[0]) for arm in trial.arms] + [(*arm, rate) for arm, rate in zip(trial.arms, own, strict=True)]
    losses = np.array(
        [trained(features, trial, columns, seed) for seed in range(trial.first_seed, trial.first_seed + trial.seeds)]
    )
    arms = len(trial.arms)
    return {
        "tuning": {"least": rounded(least), "last": rounded(last)},
        "rates": {"one": rounded(one[0]), "own": rounded(own)},
        "one_rate": rounded(losses[:, :, 1, :arms]),
        "own_rate": rounded(losses[..., arms:]),
    }


def rounded(values: np.ndarray | np.generic | float) -> list | float | None:
    """To 5 digits; None for what is not finite."""
    if np.ndim(values):
        return [rounded(one) for one in values]
    return float(f"{values:.5g}") if np.isfinite(values) else None


def recorded(folder: Path | None = None, trials: Sequence[Trial] = TRIALS) -> Mapping[str, dict[str, np.ndarray]]:
    """The recorded trials of a list by their words; empty where one of it is missing."""
    found = records.results_of(folder or RESULTS, STUDY, PROTOCOL, trials)
    if len(found) < len(trials):
        return {}
    return {
        trial.words: {name: np.array(result[name], dtype=float) for name in ("one_rate", "own_rate")}
        for trial, result in found.items()
    }
