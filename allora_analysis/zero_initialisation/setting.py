"""What a run is: one layer of one model; every field counts, none is a path.

Checked by `tests/test_zero_initialisation.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from allora_analysis.records import results_folder
from allora_analysis.validation import ArgumentError, choice, count, several

STUDY = "hessian"
RESULTS = results_folder(STUDY)
PROTOCOL = 1  # grows when the meaning of a run changes
PRECISIONS = ("float32", "float64")


@dataclass(frozen=True)
class Setting:
    """A run in full.

    Attributes:
        model: what records call the model; its content's digest stands beside.
        data: what records call the data.
        layer: the transformer layer that is adapted, from 0; all others stay as they are.
        modules: its linear maps that are adapted, by the last part of their names.
        rank: r; the scaling α/r is 1.
        k: eigenvalues at each end; 0: all of them.
        sentences: how many of the training split, drawn with the seed; the loss is their mean cross-entropy.
        max_length: tokens after which a sentence is cut.
        precision: of the model and the products with the Hessian.
        seed: of the classifier, of A, of the sentences.
    """

    model: str
    data: str
    layer: int
    modules: tuple[str, ...]
    rank: int = 16
    k: int = 3
    sentences: int = 32
    max_length: int = 128
    precision: str = "float32"
    seed: int = 0

    def words(self) -> str:
        """The run in a line.

        Returns:
            Model, layer, what is asked, rank and sentences.
        """
        asked = "the whole spectrum" if self.k == 0 else f"{self.k} eigenvalues at each end"
        return (
            f"{self.model}, {self.data}, layer {self.layer} ({', '.join(self.modules)}), r = {self.rank}, {asked}, "
            f"{self.sentences} sentences, {self.precision}, seed {self.seed}"
        )


def check(setting: Setting) -> Setting:
    """Refuse a run that makes no sense.

    Args:
        setting: the run.

    Returns:
        The same run.

    Raises:
        ArgumentError: says which field, what was received, what would work.
    """
    choice("precision", setting.precision, PRECISIONS)
    modules = several("modules", setting.modules)
    if len(set(modules)) < len(modules):
        raise ArgumentError(f"modules must differ from one another, received {modules!r}")
    for name, minimum in (("layer", 0), ("rank", 1), ("k", 0), ("sentences", 1), ("max_length", 2)):
        count(name, getattr(setting, name), minimum)
    count("seed", setting.seed, 0, 2**31)  # of a larger one PyTorch takes the low bits: another key, the same draws
    return setting
