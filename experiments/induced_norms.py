"""How long ηBA ends beside W*, in the paper's norm: `python -m experiments.induced_norms`.

These rules were committed before any of these runs.

**Question.** §3.3 takes η to bring ηBA to a comparable level with W*. After LoRA at the paper's highest rate, is the
induced norm ‖ηBA‖₂ at least a tenth of ‖W*‖₂? Runs recorded before measured rows alone, whose norms bound it between
0.037 % and 89 % and left row `3.3-comparable-level-induced` open.

**Runs.** LoRA at η·l = 2e-4 under AdamW, of `experiments.row_norms` the setting in which ηBA grows longest at a rate of
the paper's: constant rate, no clipping, no dropout, rank 16, LoRA scaling 1, classifier at 1e-3; MiniLM for 267 steps
of 32 in float32, SmolLM2-135M for 250 of 16 in bf16 autocast.

**Seeds.** 3, 4, 5: of A, the classifier, the order of the data; `row_norms` has 0, 1 and 2.

**Measured.** ‖ηBA‖₂ of each map after the last step (with the LoRA scaling for η), over ‖W*‖₂ of the map as it was
pretrained, averaged over maps.

**Test.** That average less a tenth, the threshold which the row had before: Student's t over seeds, one-sided at 0.05,
Holm over the two models. The sentence holds if it is clearly above 0 on both, is refuted if clearly below on one, and
is undecided else.

**Stopping rule.** The list is fixed: judged when all six runs are recorded, whatever they show. A run whose loss is no
longer finite leaves the row undecided.
"""

from allora_analysis.grid.command import main
from allora_analysis.grid.presets import LISTS

if __name__ == "__main__":
    raise SystemExit(main("induced_norms", LISTS["induced_norms"], doc=__doc__))
