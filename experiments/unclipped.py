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
(LoRA's least stood at 1, 0.440, so that 2 was added; then at 2, 0.427, so that 4 is; ALLoRA's stands at 1, 0.426, and 4
is not run of it. So l = 1, if LoRA at 4 does not take its place. All other rates' validation had been read, too: at 0.5
ALLoRA's loss is LoRA's at 1, at 2 one of its two runs stays at chance.)

What follows was committed when a trial had not been read, but for the numbers of seeds and the second rate of (b),
which were set, for want of time and after a critic's word on (b), when the validation above had been read. No run that
judges had been begun.

**Arms.** At η² = 4: (a) ALLoRA at l, LoRA at η·l. (b) ALLoRA, ALLoRA-OD, ASF-LoRA and LoRA × η, at l and at l/2. (The
plan had η² of 1 and 2, too; Table 3's lead is not largest at 4. More seeds of one η² were preferred.)

**Seeds.** 210 to 221 for (a), the first three of them for (b); no run of this model has used them. They are of A, the
classifier, the order of the data and the model's own dropout, and arms share them.

**Test.** Test accuracy after the epoch, in points, by seed; Student's t one-sided at 0.05 either way. Test loss stands
beside.
(a) ALLoRA minus LoRA at η·l, one comparison. "More accurate" holds where the mean is clearly above 0; it is refuted
where it is clearly below, or where it is neither and its 90 % interval lies within ±0.3 points: less than that apart.
It is undecided else.
(b) ALLoRA minus each of ALLoRA-OD, ASF-LoRA and LoRA × η at each of the two rates, Holm over the six. "More accurate
than each at either rate" holds where each mean is clearly above 0; it is refuted where one is clearly below, or is not
clearly above and has its interval, at 0.05/6 a side, within ±0.3 points; undecided else. LoRA at η·l in ALLoRA's place
stands beside, at the higher rate.
A run that stays at chance is counted as it is, though one such run can leave a question open; the evidence names those
below 60 % and has, of (a), what single runs hardly move (sign test, median, Wilcoxon's test).

**What (b) compares.** Arms at one base rate, as Table 4's, and so steps of different length. ηBA of LoRA × η starts as
BA of LoRA at η²·l, and ASF-LoRA starts as LoRA × η does. At l that is twice LoRA's best rate, where ALLoRA starts at
that rate; at l/2 it is LoRA's best rate, where ALLoRA starts at half of it. If the step's length is all, ALLoRA is
ahead of those two at l and behind them at l/2.

**Foretold.** While rows of BA are short ALLoRA at l is LoRA at η·l, so that (a) compares two arms that start alike, and
should find little. What had been seen: in the three seeds of `experiments.row_norms` (rate 0.5, constant) ALLoRA-OD is
ahead of ALLoRA in each, by 1 to 12 points, and ALLoRA minus LoRA at η·l is +24, +2 and −6.

**Power.** Twelve seeds see 0.77 standard deviations of a difference with probability 0.8; in 13 pairs clipped at 1
(ALLoRA at 1, LoRA at 2) that deviation was 0.57 points, so that 0.44 points would be seen. Unclipped it is not known.

**Stopping rule.** The list is fixed; every run is recorded whatever it shows, and a row judges when all its runs are
there. A run whose loss is no longer finite leaves its question undecided.

**The second lot**, written when the first had been read and left both questions open, before any of its own runs; a
critic's word on it was worked in when two of them had been made, and none read. What had been seen: at l one ALLoRA run
of fourteen stayed at chance, without which (a) would be open, too: differences scatter by 0.6 points. At half of these
rates, ALLoRA at l/2 and LoRA at η·l/2 = l, the recorded runs, five and two, all learn, at 77.7 to 78.4 % of the test
set, 1 to 2 points below the best; two pairs, of the trials, differ by +0.1 and −0.2 points. On three seeds at l/2
ALLoRA is 1.0 points behind ASF-LoRA and LoRA × η each, and 0.1 behind ALLoRA-OD; at l it is 0.7 behind ASF-LoRA, 0.3
behind ALLoRA-OD, and 1.4 ahead of LoRA × η, of which a run ends at 75 %. The questions are put again at l/2, where no
run failed, on fresh seeds, 230 to 249, which no run of this model has used; each lot is judged alone, none is added to
the other, and the rows take this one's verdict with the first's beside it.
(a) ALLoRA at l/2 minus LoRA at η·l/2, each at half its own best rate of those tried, twenty seeds. Test, margin and
verdict as above. Were differences to scatter by 0.4 points and to be 0 in the mean, "less than 0.3 apart" would be
found with probability 0.85; by 0.6, 0.4. Both arms start alike and stay close, so that "refuted" by "less than 0.3
apart" says that the factor does not matter here, and little of factors that adapt.
(b) ALLoRA minus each of ALLoRA-OD, ASF-LoRA and LoRA × η, all at l/2, on the first six of these seeds, Holm over the
three. "More accurate than each" holds where each mean is clearly above 0; it is refuted where one is clearly below, or
is not clearly above and has its interval, at 0.05/3 a side, within ±0.3 points; undecided else.
One base rate is Table 4's comparison, and not one of equal steps: at l/2 ASF-LoRA and LoRA × η take LoRA's best first
step, and ALLoRA half of it. That it is behind them there is foreseen: if it is by 1.0 points again, "refuted" comes
with probability 0.95 at a scatter of 0.6 points. The row's answer therefore names equal steps, too. For them ALLoRA is
run at l on the six seeds: there BA's first step is that of ASF-LoRA and LoRA × η at l/2, which is LoRA's at η·l (A, in
its second step, moves four times as far as theirs). Told beside the verdict, and deciding nothing, by the same test
over a family of three: ALLoRA at l minus ASF-LoRA and minus LoRA × η at l/2, and ALLoRA minus ALLoRA-OD at l/2, whose
first steps are alike already. On seeds 210 to 212 the first two were +0.1 each. Six seeds are too few for "the same"
(0.44 points are seen with probability 0.5 at a scatter of 0.4), and one run of ALLoRA at chance would spoil the first
two: what is told is their intervals.
(The six seeds of (b) were read, and with them the first six of (a)'s twenty, before the others of these were run;
nothing was changed.)
A run that stays at chance is counted and named as above. A run whose loss is no longer finite leaves open the question
whose comparisons it is in; those beside a verdict are then left out.
"""

from allora_analysis.grid.command import main
from allora_analysis.grid.presets import LISTS

if __name__ == "__main__":
    raise SystemExit(main("unclipped", LISTS["unclipped"], doc=__doc__))
