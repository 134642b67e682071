"""Tables 3 and 4 with ALLoRA's factor on AdamW's update: `python -m experiments.on_the_update`.

These rules were committed before any of the runs that they added.

**Question.** The paper trains every arm at one base rate l = 1e-4 and names no optimizer. AdamW divides a factor on the
gradient out again, so that in `experiments.perception` and `experiments.ablation` ALLoRA is nearly LoRA at l. With the
factor on AdamW's update (ALLoRAAdamW), where it acts, on all-MiniLM-L6-v2 at the paper's own rate: (a) is ALLoRA more
accurate than LoRA at η·l, as in Table 3? (b) Does it rise with η² as Table 3's does? (c) Is it more accurate than each
of ALLoRA-OD, ASF-LoRA and LoRA × η, as in Table 4?

**Arms.** All as in those two lists' desk runs: l = 1e-4, the classifier at l in all, drop rate 0.05 at A's input, η² in
{1, 2, 4}, two epochs of rotten_tomatoes in batches of 32, AdamW, linear schedule, clipping at 1, r = 16, bf16 autocast.
ALLoRAAdamW; LoRA at η·l; ALLoRA-OD, ASF-LoRA, LoRA × η at l (under AdamW, as there). SGD without clipping, where the
listed factor acts too, is left out: at the rates of `experiments.row_norms` LoRA's accuracy there goes from 0.51 to
0.77 with the seed, so that five seeds could tell nothing. (Since: `experiments.unclipped`, at a rate chosen for it.)

Of the eight procedures that `T3-procedure-laboratory` compares, two are here, as listed and with the factor after
Adam's division. The others differ from these by an ε, by SGD at that l or by the classifier's rate. On digits, where
sixty seeds take minutes, they stand apart; here each takes ten runs of five to twelve minutes, to say of one model more
what digits say, and none is run.

**Foretold.** At this rate no row of BA grows long: the factor stays within a few percent of η. So (a) compares LoRA at
nearly η·l with LoRA at η·l, and should find them alike; (b) the share should be near 1 (0.81 on digits, at a rate at
which rows grow longer); (c) ALLoRAAdamW should be ahead where its steps are the longer ones.

**Seeds.** Of ALLoRAAdamW and LoRA 0 to 4, of the other three 0 to 2, shared by all. The other arms' runs on the seeds
0, 1 and 2 are those two lists' own, and had been seen when these rules were written; of ALLoRAAdamW other lists have
runs at this rate, shorter and without dropout.

**Test.** Test accuracy after the last epoch, in points, by seed, Student's t one-sided at 0.05 either way.
(a) One comparison: ALLoRAAdamW minus LoRA at η·l, the mean over η² of 2 and 4 (at 1 the factor is at most 1, and the
two are one but for that; it stands beside, as each η² does). "More accurate" holds where the mean is clearly above 0;
it is refuted where it is clearly below, or where its 90 % interval lies within ±0.3 points, which is the same.
(b) The share: ALLoRAAdamW's mean rise from η² = 1 to 4 over LoRA's at η·l, Fieller's 95 % interval over seeds. "Like
Table 3" holds where that interval meets the 90 % interval of Table 3's own ratio and is at most 0.5 long; it is refuted
where they do not meet, and is undecided else. The share of ALLoRA as listed, on seeds 0 to 2, stands beside.
(c) Three comparisons on three seeds, ALLoRAAdamW minus each other, the mean over the η² at which both were run (LoRA ×
η: 2 and 4), Holm over the three. "More accurate than each" holds where each mean is clearly above 0; it is refuted
where one is clearly below, or has its 90 % interval within ±0.3 points. (Changed since, which changes no verdict: it
is the same where it is not clearly above 0 and its interval at 0.05/3 a side lies there.) LoRA at η·l in ALLoRAAdamW's
place stands beside: where it leads as far, the lead is the longer step's, and nothing of the adaptive factor's.

**Two seeds more, withdrawn.** A rule had ALLoRA-OD, ASF-LoRA and LoRA × η run the seeds 3 and 4, too, and (c) judged on
all five. It was taken back for want of time when two of its sixteen runs were made (ALLoRA-OD and ASF-LoRA at η² = 1,
seed 3): they are recorded, had not been read, and judge nothing. (c) stays on three seeds.

**Stopping rule.** The list is fixed; every run is recorded whatever it shows; each question is judged when all its runs
are there. A run whose loss is no longer finite leaves its question undecided.
"""

from allora_analysis.grid.command import main
from allora_analysis.grid.presets import LISTS

if __name__ == "__main__":
    raise SystemExit(main("on_the_update", LISTS["on_the_update"], doc=__doc__))
