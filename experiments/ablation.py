"""Table 4 and Figure 4, ALLoRA beside the rest of its family: `python -m experiments.ablation`.

**Question.** The paper says that ALLoRA is "universally better than the rest in the family": ALLoRA-OD (the factor per
token), ASF-LoRA (the scaling adapts instead of the rate) and LoRA × η (a fixed scaling).

**Arms.** ALLoRA-OD, ASF-LoRA and LoRA × η, η² in {1, 2, 4}, all at l_b = 1e-4 with drop rate 0.05; ALLoRA's own runs,
and LoRA × 1, are those of `experiments.perception` (at η² = 1, LoRA × η is LoRA at l_b). Two epochs, AdamW, linear
schedule, clipping at 1, batches of 32, r = 16, desk runs in bf16 autocast, as there.

OpenELM-450M, of the paper's preset, comes with neither a tokenizer (it uses Llama 2's) nor a sequence classifier:
`--source OpenELM-450M=FOLDER --trust-remote-code` with a folder that has both, or leave it out by `--only`.

Desk runs are on rotten_tomatoes; emotion (24 runs of 10 minutes each, none made) is off the list for the reason that
`experiments.perception` gives. `--preset paper` keeps it.

**Seeds.** Desk: 0, 1, 2; paper: 0 to 4. Arms share seeds with one another and with `perception`.

**Test.** As in `experiments.perception`, ALLoRA minus each of the three: Holm over the arms and cells run.

**Stopping rule.** The list of runs is fixed; every run is recorded whatever it shows, and a cell is tested when its
seeds are all there.
"""

from allora_analysis.grid.command import main
from allora_analysis.grid.presets import LISTS

if __name__ == "__main__":
    raise SystemExit(main("ablation", LISTS["ablation"], doc=__doc__))
