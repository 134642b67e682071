"""Ours: every arm over a range of learning rates, the best of each compared. `python -m experiments.learning_rates`.

**Question.** The paper compares its arms at one base rate, at which ALLoRA's adapters learn faster than LoRA's by up to
η. After each arm is given the rate that suits it best, does any arm differ from LoRA?

**Arms.** AdamW: LoRA, ALLoRA without dropout, ALLoRAAdamW and ASF-LoRA (η² = 4), DoRA, LoRA+ (B's rate 16 times A's),
at learning rates 3e-5 to 3e-3, half a decade apart. SGD: LoRA and ALLoRA (η² = 4) at 0.03 to 3. One epoch, linear
schedule, clipping at 1 (transformers' default), no dropout in any arm's adapters, one rate for the classifier in all
arms of an optimizer. all-MiniLM-L6-v2 in batches of 32; SmolLM2-135M in batches of 16, for LoRA, ALLoRA and
ALLoRAAdamW, for 250 steps (before the first of its runs an epoch of 533 was planned; with 12 in place of 25 minutes a
run, all three seeds can be there). Desk runs in bf16 autocast (adapters, classifier and optimizer in float32), twice as
fast on a core that multiplies bf16.

Added after the first seed, before any arm was complete: on all-MiniLM-L6-v2 LoRA's and DoRA's validation accuracy was
highest at the range's upper end, so LoRA, ALLoRA and DoRA, which had not fallen off there, have 1e-2 as well. So too
under SGD, where both arms' was highest at 3: both have 10 as well.

**Seeds.** 0, 1, 2: of A, the classifier, the order of the data. Arms share seeds.

**Test.** For each arm, the rate with the highest validation accuracy, averaged over seeds; at that rate, the test
accuracy of the arm minus LoRA's at LoRA's own best rate, paired by seed: Student's t over seeds, one-sided in either
direction at 0.05. The paper's sentence is one comparison, ALLoRA's; the other arms are a family of their own, with
Holm's correction (changed after the runs: it was two-sided, with Holm over all arms). A difference that neither test
shows is undecided, with the number of seeds that it would need. Validation chooses, the test
split judges.

**Stopping rule.** The list of runs is fixed; every run is recorded whatever it shows, one that diverges as such; an arm
is judged when all its rates and seeds are there.
"""

from allora_analysis.grid.command import main
from allora_analysis.grid.presets import LISTS

if __name__ == "__main__":
    raise SystemExit(main("learning_rates", LISTS["learning_rates"], doc=__doc__))
