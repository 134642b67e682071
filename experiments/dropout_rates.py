"""Table 2 and Figure 2, left: `python -m experiments.dropout_rates`.

**Question.** The paper says that in fine-tuning large drop rates avoid overfitting only after many epochs (of ten) and
cost accuracy before (at three), and that the epoch of the best accuracy grows with the drop rate.

**Arms.** LoRA at drop rates 0, 0.05, 0.1, 0.2, 0.4, where PEFT has the dropout (A's input); and, for 0.1 and 0.4, in
the bottleneck, between A and B. AdamW at 3e-4, classifier at 1e-3, **constant** rate: under a decaying one an epoch's
accuracy would depend on how many are still to come. Clipping at 1. Eight epochs; all-MiniLM-L6-v2, rotten_tomatoes,
batches of 32. Desk runs in bf16 autocast (adapters, classifier and optimiser in float32), twice as fast on a core that
multiplies bf16.

**Seeds.** 0, 1, 2: of A, the classifier, the order of the data, the masks. Arms share seeds.

**Test.** Test accuracy at epochs 3 and 8 at each drop rate minus that at drop rate 0, paired by seed: Student's t over
seeds, 95 % intervals, Holm over the eight cases of the placement input. "Costs accuracy early" if a difference at
epoch 3 is significantly below 0, "helps late" if one at epoch 8 is above 0; undecided otherwise, with the number of
seeds that the difference seen would need. The epoch of the best accuracy: Spearman's correlation with the drop rate
over all runs, permutation test.

**Stopping rule.** The list of runs is fixed; every run is recorded whatever it shows, and a case is tested when its
seeds are all there.
"""

from __future__ import annotations

from allora_analysis.grid.command import main
from allora_analysis.grid.presets.dropout_rates import PRESETS

if __name__ == "__main__":
    raise SystemExit(main("dropout_rates", PRESETS))
