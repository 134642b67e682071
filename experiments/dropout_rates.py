"""Table 2 and Figure 2, left, LoRA's dropout over epochs: `python -m experiments.dropout_rates`.

**Question.** The paper says that in fine-tuning large drop rates avoid overfitting only after many epochs (of ten) and
cost accuracy before (at three), and that the epoch of the best accuracy grows with the drop rate.

**Arms.** LoRA at drop rates 0, 0.05, 0.1, 0.2, 0.4, where PEFT has the dropout (A's input); and, for 0.1 and 0.4, in
the bottleneck, between A and B. AdamW at 3e-4, classifier at 1e-3, **constant** rate: under a decaying one an epoch's
accuracy would depend on how many are still to come. Clipping at 1. Eight epochs; all-MiniLM-L6-v2, rotten_tomatoes,
batches of 32. Desk runs in bf16 autocast (adapters, classifier and optimizer in float32), twice as fast on a core that
multiplies bf16. The paper's preset: Qwen2-0.5B on bias_in_bios, ten epochs, five seeds where the paper has three runs;
it names neither optimizer nor rate.

**Seeds.** 0, 1, 2: of A, the classifier, the order of the data, the masks. Arms share seeds.

**Test.** Test accuracy at epochs 3 and 8 at drop rate 0.4 minus that at each other, paired by seed, placement input:
Student's t over seeds, 95 % intervals, Holm over the eight cases. "The strongest after long, the weakest after short
fine-tuning" holds if the four differences at epoch 3 are significantly below 0 and the four at epoch 8 above, is
refuted if one is significantly on the other side, and is undecided otherwise, with the number of seeds that the
differences seen would need. Beside it: each drop rate minus 0 (a family of its own), and the epoch of the best
accuracy: Spearman's correlation with the drop rate over all runs, 9999 permutations. (Before any run, the test was
against drop rate 0 alone; that cannot tell the strongest from the second.)

*Since:* so asked it is undecided; no row asks it any more, and the numbers, Holm over four
cases at a time in place of eight, stand in the evidence of `3.1-figure-2-left-early` and `-late`, whose runs came after
(`experiments.dropout_alone`).

**Stopping rule.** The list of runs is fixed; every run is recorded whatever it shows, and a case is tested when its
seeds are all there.
"""

from allora_analysis.grid.command import main
from allora_analysis.grid.presets import LISTS

if __name__ == "__main__":
    raise SystemExit(main("dropout_rates", LISTS["dropout_rates"], doc=__doc__))
