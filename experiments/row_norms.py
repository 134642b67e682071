"""Figure 2, right, how long the rows of BA grow: `python -m experiments.row_norms`.

**Question.** The paper says of ALLoRA that the row norms of BA leave 0 as fast as LoRA's at learning rate η·l_b, then
find their level, and that LoRA at a lower rate reaches the same level much more slowly. It names no optimizer. Is it
so under SGD, where the first step is LoRA's at η·l exactly; and under AdamW, where the factor cancels in the first
step?

**Arms.** LoRA at l, LoRA at η·l, ALLoRA and ALLoRA-OD at l, under SGD and AdamW; under AdamW also ALLoRAAdamW (LoRA
with the row factor after Adam) at l. η² = 4, the paper's largest, so η = 2. l = 1e-4 under AdamW (the paper's base
rate) and 0.5 under SGD: of 0.3, 1 and 3, tried for at most 267 steps with LoRA, training ended at chance at 3, the loss
fell furthest at 1, which is LoRA's rate η·l here, and slowly at 0.3. (A first list had l = 3 under SGD; it was given up
after its first run, which trained nothing. The other trials had seed 100, which is no seed of the experiment.) Constant
rate, **no clipping** (at 1 it would undo some of the factor), no dropout, LoRA scaling 1, one rate for the classifier
(1e-3 under AdamW, 0.1 under SGD) in all arms of an optimizer. One epoch of rotten_tomatoes in batches of 32;
SmolLM2-135M: 250 steps of 16 in bf16 autocast (adapters, classifier and optimizer in float32). There, under SGD, l =
0.1 and 1e-3 for the classifier. (A first list had MiniLM's two rates there too; it was given up after 8 of its 12 runs,
whose records are kept: at every step measured the loss was between 6 and 163, 4 of them diverged, the others ended at
chance. A sentence's last hidden state is about 47 long in this model, so that the classifier's own curvature makes a
rate above about 2e-3 unstable. With 1e-3, in trials of LoRA with seed 100, a batch's loss stayed below 1 at rates of
0.05, 0.2 and 0.5, and rose to 1.9 at 1.)

**Seeds.** 0, 1, 2: of A, the classifier, the order of the data. Arms share seeds, so they start alike.

**Measured.** n(t): the row norm ‖(ηBA)_i‖ (with the LoRA scaling for η), averaged over rows and layers, at steps 0 to
10 and at 24 more, evenly in the logarithm.

**Test.** D(t) = log n_ALLoRA(t) − log n_other(t), paired by seed, Student's t over seeds, for "other" LoRA at η·l and
LoRA at l, at t = 1, 10 and the last step. ALLoRA *matches* another at t if the whole 95 % interval of D(t) is within
±log 1.1, *differs* if the interval excludes 0 and |mean| is above log 1.1, otherwise it is undecided. The paper's
sentence holds of a model under an optimizer if ALLoRA matches LoRA at η·l at t = 1 and 10 and differs from LoRA at l
there.

**Stopping rule.** The list of runs is fixed; every run is recorded whatever it shows, and a case is tested when its
seeds are all there.
"""

from allora_analysis.grid.command import main
from allora_analysis.grid.presets import LISTS

if __name__ == "__main__":
    raise SystemExit(main("row_norms", LISTS["row_norms"], doc=__doc__))
