"""Tables 3 and 4 under SGD with nothing clipped, at a rate chosen for it: `python -m experiments.unclipped`.

These rules were committed before any of the runs they speak of.

**Question.** Under AdamW ALLoRA's factor, which is on the gradient, is divided out again, and clipping divides η out
again as far as A and B make up the gradient's norm. Under SGD with nothing clipped the factor acts. There, on
all-MiniLM-L6-v2, every arm at one base rate l and η² = 4, the paper's largest: (a) is ALLoRA more accurate than LoRA at
η·l, as in Table 3? (b) Is it more accurate than each of ALLoRA-OD, ASF-LoRA and LoRA × η, as in Table 4?

**Shared.** rotten_tomatoes, one epoch in batches of 32, SGD without momentum, no clipping, linear schedule, r = 16, no
dropout in the adapters, bf16 autocast, the classifier at 0.1 in all arms, as in `experiments.row_norms`.

**The rate.** No list of ours has chosen one for SGD without clipping: `experiments.row_norms` took 0.5 from three short
trials, and at 0.5 and 1 LoRA's accuracy there goes with the seed, from 0.51 to 0.77. First LoRA and ALLoRA are run at
0.125, 0.25, 0.5 and 1, on the seeds 200 and 201, which no run of this model has used. l is half the rate at which
LoRA's validation loss after the last step, averaged over both seeds, is least: LoRA at η·l is LoRA at the best rate
tried, so that (a) compares ALLoRA with that. A run whose loss is no longer finite counts as infinite. Where the least
stands at an end of the range the next rate beyond, by a factor of two, is run, for both arms, until it does not.
ALLoRA's own best rate is read from its runs in the same way and told beside. No test sentence chooses anything.
(LoRA's least stood at 1, so that 2 was added.)

What follows was committed when the trials were not all there and none of them had been read, before any run of it.

**Arms.** ALLoRA, ALLoRA-OD, ASF-LoRA and LoRA × η at l, LoRA at η·l; η² = 4 alone. (The plan had 1 and 2, too. Table
3's lead is not largest at 4; but here seeds cost three minutes a run, and twenty of one η² tell more than five of
three.)

**Seeds.** 210 to 229 for (a), the first five of them for (b); no run of this model has used them. They are of A, the
classifier, the order of the data and the model's own dropout, and arms share them.

**Test.** Test accuracy after the epoch, in points, by seed; Student's t one-sided at 0.05 either way. Test loss stands
beside.
(a) ALLoRA minus LoRA at η·l, one comparison. "More accurate" holds where the mean is clearly above 0; it is refuted
where it is clearly below, or where it is neither and its 90 % interval lies within ±0.3 points: less than that apart.
It is undecided else.
(b) ALLoRA minus each of ALLoRA-OD, ASF-LoRA and LoRA × η, Holm over the three. "More accurate than each" holds where
each mean is clearly above 0; it is refuted where one is clearly below, or is not clearly above and has its interval, at
0.05/3 a side, within ±0.3 points; undecided else. LoRA at η·l in ALLoRA's place stands beside.
A run that stays at chance is counted as it is, though one such run can leave a question open; the evidence names those
below 60 % and has, of (a), what single runs hardly move (sign test, median, Wilcoxon's test).

**What (b) compares.** Arms at one base rate, as Table 4's, and so steps of different length. ηBA of LoRA × η starts as
BA of LoRA at η²·l, and ASF-LoRA starts as LoRA × η does: at twice LoRA's best rate, where ALLoRA starts at that rate. A
lead over them is one at this l, not at their own best rates, and may be the shorter step's.

**Foretold.** While rows of BA are short ALLoRA at l is LoRA at η·l, so that (a) compares two arms that start alike, and
should find little. Of (b) nothing is foretold. What had been seen: in the three seeds of `experiments.row_norms` (rate
0.5, constant) ALLoRA-OD is ahead of ALLoRA in each, by 1 to 12 points, and ALLoRA minus LoRA at η·l is +24, +2 and −6.

**Power.** Twenty seeds see 0.58 standard deviations of a difference with probability 0.8; in 13 pairs clipped at 1
(ALLoRA at 1, LoRA at 2) that deviation was 0.57 points, so that 0.33 points would be seen. Unclipped it is not known.

**Stopping rule.** The list is fixed; every run is recorded whatever it shows, and a row judges when all its runs are
there. A run whose loss is no longer finite leaves its question undecided.
"""

from allora_analysis.grid.command import main
from allora_analysis.grid.presets import LISTS

if __name__ == "__main__":
    raise SystemExit(main("unclipped", LISTS["unclipped"], doc=__doc__))
