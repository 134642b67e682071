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
"""

from allora_analysis.grid.command import main
from allora_analysis.grid.presets import LISTS

if __name__ == "__main__":
    raise SystemExit(main("unclipped", LISTS["unclipped"], doc=__doc__))
