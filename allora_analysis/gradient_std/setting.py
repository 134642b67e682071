"""One run's setting: everything that its record's key holds besides the data. Numbers only, no torch.

Checked by `tests/test_gradient_std_study.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

OPTIMIZERS = ("sgd", "momentum", "adam", "adamw")
# One stated rate each, neither tuned on Figure 1's statistics.
LEARNING_RATES = {"sgd": 0.1, "momentum": 0.02, "adam": 1e-3, "adamw": 1e-3}
WEIGHT_DECAYS = {"sgd": 0.0, "momentum": 0.0, "adam": 0.0, "adamw": 1e-2}
MOMENTUM = 0.9
BETAS = (0.9, 0.999)
EPSILON = 1e-8
# Grows when the meaning of a run with the same setting changes.
PROTOCOL = 1


@dataclass(frozen=True)
class Setting:
    """A run: its training and what is measured at each epoch.

    Attributes:
        data: the data set's name.
        hidden: widths of the hidden layers.
        drop_rate: 1 − p, in training and in the masks measured.
        optimizer: its name.
        learning_rate: l.
        weight_decay: λ, coupled but for adamw.
        epochs: of training.
        batch_size: images in a batch, in training and when measured.
        masks: K, on the probe and on the fresh batch.
        control_minibatches: minibatches for the control without dropout.
        nested_minibatches: minibatches of the nested design.
        nested_masks: masks on each.
        seed: of everything random.
    """

    data: str
    hidden: tuple[int, ...]
    drop_rate: float
    optimizer: str
    learning_rate: float
    weight_decay: float
    epochs: int
    batch_size: int
    masks: int
    control_minibatches: int
    nested_minibatches: int
    nested_masks: int
    seed: int

    @property
    def keep_prob(self) -> float:
        """The keep probability p = 1 − drop_rate."""
        return 1.0 - self.drop_rate

    def words(self) -> str:
        """The setting in words, for an error: what decides whether training diverges.

        Returns:
            The words.
        """
        return (
            f"data {self.data}, optimizer {self.optimizer}, learning_rate {self.learning_rate:g}, "
            f"drop_rate {self.drop_rate:g}, seed {self.seed}"
        )
