"""Tables 3 and 4 under SGD with nothing clipped, at a rate chosen for it: `python -m experiments.unclipped`.

These rules were committed before any of the runs they speak of.

**Question.** Under AdamW ALLoRA's factor, which is on the gradient, is divided out again, and clipping divides η out
again as far as A and B make up the gradient's norm. Under SGD with nothing clipped the factor acts as §4.2 derives it.
There, on all-MiniLM-L6-v2, every arm at one base rate l and η² = 4, the paper's largest: is ALLoRA more accurate than
LoRA at η·l, as in Table 3, and than each of ALLoRA-OD, ASF-LoRA and LoRA × η, as in Table 4?

**Shared.** rotten_tomatoes, one epoch in batches of 32, SGD without momentum, no clipping, linear schedule, r = 16, no
dropout in the adapters, bf16 autocast, the classifier at 0.1 in all arms, as in `experiments.row_norms`.

**The rate.** No list of ours has chosen one for SGD without clipping: `experiments.row_norms` took 0.5 from three short
trials, and at 0.5 and 1 LoRA's accuracy there goes with the seed, from 0.51 to 0.77. First LoRA and ALLoRA are run at
0.125, 0.25, 0.5 and 1, on the seeds 200 and 201, which no run of this model has used. l is half the rate at which
LoRA's validation loss after the last step, averaged over both seeds, is least: LoRA at η·l is LoRA at the best rate
tried. A run whose loss is no longer finite counts as infinite. Where the least stands at an end of the range the next
rate beyond, by a factor of two, is run, for both arms, until it does not. ALLoRA's own best rate is read from its runs
in the same way and told beside. No test sentence chooses anything.

What follows was committed when the trials were not all there and none of them had been read, before any run of it.

**Arms.** ALLoRA, ALLoRA-OD, ASF-LoRA and LoRA × η at l, LoRA at η·l; η² of 2 and 4. (η² = 1 is left out: there the
factor is at most 1, LoRA at η·l and LoRA × η are one arm, and ALLoRA is this arm but for the factor's fall.)

**Seeds.** 210 to 214, which no run of this model has used, shared by all arms: of A, the classifier, the order of the
data, the model's own dropout.

**Test.** Test accuracy after the epoch, in points, the mean over both η², by seed; Student's t one-sided at 0.05 either
way. Test loss and each η² stand beside.
(a) ALLoRA minus LoRA at η·l, one comparison. "More accurate" holds where the mean is clearly above 0; it is refuted
where it is clearly below, or where its 90 % interval lies within ±0.3 points, which is the same; undecided else.
(b) ALLoRA minus each of ALLoRA-OD, ASF-LoRA and LoRA × η, Holm over the three. "More accurate than each" holds where
each mean is clearly above 0; it is refuted where one is clearly below, or has its 90 % interval within ±0.3 points.
LoRA at η·l in ALLoRA's place stands beside.
A run that stays at chance is counted as it is; the evidence names those below 60 %.

**Foretold.** While rows of BA are short ALLoRA at l is LoRA at η·l, so that (a) compares two arms that start alike, and
should find little. LoRA × η has η in the gradient and once more in the output: its BA starts as LoRA's at η²·l. Where l
is half of LoRA's best rate that is above the best, and by how much it is behind, or ahead, nothing here foretells.

**Stopping rule.** The list is fixed; every run is recorded whatever it shows, and the rows judge when all are there. A
run whose loss is no longer finite leaves its question undecided.
"""

from allora_analysis.grid.command import main
from allora_analysis.grid.presets import LISTS

if __name__ == "__main__":
    raise SystemExit(main("unclipped", LISTS["unclipped"], doc=__doc__))
