"""Table 1, ALLoRA beside DoRA: `python -m experiments.commonsense --source commonsense=FOLDER`, on GPUs.

**Question.** The paper says that on eight commonsense tasks "ALLoRA and ALLoRA-0 each boosted accuracy by 0.3 % over
DoRA" on average, and that "for all cases" one of the two is the best.

**Arms.** `--preset paper`: LLaMA-7B, LLaMA2-7B and LLaMA3-8B, r = 16 and 32, 3 epochs on commonsense_170k, as §4.5
says: DoRA at 1e-4 and 2e-4 (run anew; the paper copies its rows from DoRA's authors); ALLoRA and ALLoRA-0 at η² in
{1, 2, 4}. The paper names neither ALLoRA's base rate there (we take §4.4's l_b = 1e-4), nor its drop rate (§4.4's
0.05), nor optimizer, batch, warm-up and length, of which it says only "following DoRA's setup": AdamW, linear schedule,
100 steps of warm-up, batches of 16, 256 tokens, from DoRA's script. Other than there: α = r (theirs is 2r, which an
ALLoRA cannot have), all linear layers are adapted (theirs: q, k, v, up, down), bf16, clipping at 1; an answer is chosen
by likelihood among those that the question offers (theirs is generated and searched for a word). The paper reports the
best of three η² and of two rates; what it chose them on it does not say: here every run is recorded, and none chosen.
Data: a folder with the eight tasks' folders (`test.jsonl` each, LLM-Adapters' rows) and commonsense_170k as
`train.jsonl`, `--source commonsense=FOLDER`; each task's accuracy stands in the record.

There is no desk list. One was declared: SmolLM2-135M-Instruct on OpenBookQA and BoolQ, 24 runs of 200 steps. None was
made, and it is off the list: 80 minutes a run on two cores, for a model that may be no better than chance on such
questions; three seeds of it would see a gap of many points, not one of 0.3. DoRA against LoRA and ALLoRA with 100 seeds
is in `experiments.laboratory`.

**Seeds.** 0, 1, 2, of A, the order of the data and the masks; the paper names no number of runs for its Table 1. Arms
share seeds.

**Test.** Test accuracy after the last step, ALLoRA and ALLoRA-0 minus DoRA, averaged over the tasks, paired by
seed: Student's t over seeds, one-sided in either direction, Holm over the two. "Each boosted" holds if both are clearly
above 0, is refuted if one is clearly below, and is undecided otherwise, with the number of seeds that the differences
seen would need. Beside it: task by task, and over LoRA.

**Stopping rule.** The list of runs is fixed; every run is recorded whatever it shows, and an arm is tested when its
seeds are all there on every task.
"""

from allora_analysis.grid.command import main
from allora_analysis.grid.presets import LISTS

if __name__ == "__main__":
    raise SystemExit(main("commonsense", LISTS["commonsense"], doc=__doc__))
