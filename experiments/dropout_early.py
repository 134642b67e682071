"""Dropout in LoRA after one epoch, on fresh seeds: `python -m experiments.dropout_early`.

These rules were committed before any of the runs they speak of.

**Question.** §1 says that dropout in LoRA harms in few steps. On all-MiniLM-L6-v2, whose own dropout is off,
`experiments.dropout_alone` left open whether a drop rate of 0.4 raises the test loss after one epoch: by 0.002 nats at
A's input (90 %: -0.010 to 0.013) and 0.004 between A and B (-0.009 to 0.018) on eight seeds, which 886 and 222 would
tell from 0; four epochs had lowered it by 0.10 nats or so. So the question is asked with a margin: is a rise, if any,
smaller than 0.02 nats, a fifth of that gain? The margin was chosen when those eight seeds had been read.

**Arms.** Those of `experiments.dropout_alone`, for one epoch: LoRA without dropout; at 0.4 at A's input; at 0.4 between
A and B. rotten_tomatoes, batches of 32, AdamW, clipping at 1, bf16 autocast, constant rates of 1e-3 for the adapters
and the classifier, so that these are that list's first epochs, on other seeds.

**Seeds.** 120 to 135, which no run of this model on these data has used: of A, the classifier, the order of the data,
the masks. Arms share seeds.

**Test.** Test loss after the epoch, with dropout minus without, paired by seed, at each place; Student's t over seeds.
"Raises the test loss" holds where it is clearly above 0 at both places (one-sided at 0.05, each alone, as both must
hold). Otherwise it is refuted where it is clearly below 0 at one, Holm over the two, or where at both places the 90 %
interval lies within ±0.02 nats (no rise worth the name). It is undecided else. Accuracy stands beside.

**Power.** At the standard deviations of the eight seeds, 0.017 and 0.020 nats, sixteen have both intervals within the
margin with probability 0.96 where the truth is 0 at both places, and 0.89 where it is what the eight showed (normal
differences that do not depend on each other).

**Stopping rule.** The list is fixed; row `3.1-figure-2-left-early` is judged by it alone when all 48 runs are recorded,
whatever they show; the eight seeds stand beside. A run whose loss is no longer finite leaves the row undecided.
"""

from allora_analysis.grid.command import main
from allora_analysis.grid.presets import LISTS

if __name__ == "__main__":
    raise SystemExit(main("dropout_early", LISTS["dropout_early"], doc=__doc__))
