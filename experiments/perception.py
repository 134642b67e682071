"""Table 3 and Figure 3, ALLoRA beside LoRA at η·l: `python -m experiments.perception`.

**Question.** The paper says that ALLoRA is "universally better" than LoRA on perception tasks, and that without dropout
it is about the same. Its LoRA runs at η·l_b, classifier included, while ALLoRA's classifier stays at l_b.

**Arms.** As in the paper, l_b = 1e-4 and η² in {1, 2, 4}: ALLoRA with drop rate 0.05, ALLoRA without dropout, both at
l_b; LoRA with drop rate 0.05 at η·l_b, with the classifier at η·l_b too (the paper's), and with the classifier at l_b
(the confound taken out). Two epochs, AdamW, linear schedule, clipping at 1, batches of 32, r = 16: transformers'
defaults, since the paper names none. Desk runs in bf16 autocast (adapters, classifier and optimizer in float32),
twice as fast on a core that multiplies bf16.

OpenELM-450M, of the paper's preset, comes with neither a tokenizer (it uses Llama 2's) nor a sequence classifier:
`--source OpenELM-450M=FOLDER --trust-remote-code` with a folder that has both, or leave it out by `--only`.

Desk runs are on rotten_tomatoes. Emotion (33 more runs, declared once and none made) is off the list: at this rate, a
tenth of the best one, ALLoRA's factor under AdamW stays near η and is divided out again, so that a second data set
would show LoRA at l_b against LoRA at η·l_b once more, for 33 · 8 minutes of a core. `--preset paper` keeps it. Where
the factor acts: on AdamW's update, `experiments.on_the_update`; under SGD, on a small network, `experiments.one_rate`.

**Seeds.** Desk: 0, 1, 2; paper: 0 to 4. Arms share seeds.

**Test.** Test accuracy after the last epoch, ALLoRA minus LoRA, paired by seed; per cell (data × η²) Student's t over
seeds, one-sided in either direction, with Holm over the cells run: the rule of `allora_analysis.statistics.directional`
(changed after the first runs: it was two-sided, with Holm over all planned cells). "Universally better" holds if the
difference is significantly above 0 in every cell run, is refuted if it is significantly below in one, and is undecided
otherwise, with the number of seeds that the differences seen would need. Test loss stands beside accuracy. Beside it
the mean over all cells, seed by seed, and Student's t over seeds: cells share runs and data, so seeds are what is
independent (changed before the first run: cells' signs were to be flipped).

**Stopping rule.** The list of runs is fixed; every run is recorded whatever it shows, and a cell is tested when its
seeds are all there.
"""

from allora_analysis.grid.command import main
from allora_analysis.grid.presets import LISTS

if __name__ == "__main__":
    raise SystemExit(main("perception", LISTS["perception"], doc=__doc__))
