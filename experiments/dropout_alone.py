"""Dropout in LoRA where it is the only one: `python -m experiments.dropout_alone`.

These rules were committed before any of the runs they speak of.

**Question.** §1 says that dropout in LoRA harms in few steps, and Figure 2, left, that large drop rates pay only after
many epochs. `experiments.dropout_rates` asked it by accuracy, on three seeds, while the model's own dropout of 0.1 was
on beside LoRA's, and could not tell. Here the model's own is off.

**Arms.** LoRA without dropout; at drop rate 0.4 at A's input, where PEFT has it; at 0.4 between A and B, where §3.1 has
the masks. all-MiniLM-L6-v2, rotten_tomatoes, four epochs in batches of 32, AdamW, clipping at 1, bf16 autocast,
constant rate, so that an epoch's loss does not depend on how many are still to come: 1e-3 for the adapters, at which
LoRA without dropout was best after one epoch (`experiments.learning_rates`), and 1e-3 for the classifier. One rate for
all arms: it is the one of an arm without dropout (the model's own was on, and the rate fell), after one epoch, which
favors both halves of the sentence; each arm's own best was not tried.

**Seeds.** 3 to 10: of A, the classifier, the order of the data, the masks. Arms share seeds.

**Test.** Test loss, whose differences were clearer than accuracy's in the runs seen (seeds 0 to 2, the model's own
dropout on, 3e-4: at 0.4 higher after one epoch in all three, lower after six). With dropout minus without, paired by
seed: Student's t, one-sided at 0.05, Holm over the four cases, two places at two times. "It costs after one epoch and
gains after four" holds if both places are clearly above 0 after one and clearly below 0 after four; it is refuted if
one case is clearly the other way, and undecided else. *Changed when the runs had been read:* so asked it is undecided;
each half is a row of its own now (`3.1-figure-2-left-early`, `-late`), by the same test over the four. Accuracy stands
beside it, a family of its own by the same test.

**Stopping rule.** The list is fixed: judged when all eight seeds are recorded, whatever they show. A run whose loss is
no longer finite leaves the row undecided, which then says so.
"""

from allora_analysis.grid.command import main
from allora_analysis.grid.presets import LISTS

if __name__ == "__main__":
    raise SystemExit(main("dropout_alone", LISTS["dropout_alone"], doc=__doc__))
