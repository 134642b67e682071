"""LoRA and ALLoRA at their own best rates once more, on fresh seeds: `python -m experiments.own_best_fresh`.

These rules were committed before any of the runs they speak of.

**Question.** Is ALLoRA-0 more accurate than LoRA on all-MiniLM-L6-v2 under AdamW, each at its own best rate?
`experiments.own_best_rate` stopped at its twentieth seed with "more accurate" (e-value 29), and four seeds later the
e-value was 1; in most orders of those seeds its rule says "the same". The order of seeds is nothing that an answer
should hang on: here their number is fixed.

**Arms.** ALLoRA-0 and LoRA at 1e-3, as in that list: rotten_tomatoes, one epoch in batches of 32, no dropout in the
adapters, η² = 4, linear schedule, clipping at 1, bf16 autocast. The rates are that list's, half a decade from the next
that were tried.

**Seeds.** 63 to 82, of A, the classifier, the order of the data; arms share seeds. None has been run at any rate.

**Test.** Test accuracy after the last step, ALLoRA-0 minus LoRA by seed, Student's t, one comparison. The two are the
same, and "more accurate" is refuted, where the 90 % interval lies within ±0.3 points, the margin of that list; or else
it holds where the mean is clearly above 0 (one-sided at 0.05), is refuted where it is clearly below, and is undecided
where it is neither. Test loss stands beside it, with that list's margin of 0.004.

**Power.** At a standard deviation of 0.32 points, that of the 24 seeds seen, twenty say "the same" with probability
0.98 where the truth is 0, 0.85 where it is 0.1 and 0.05 where it is 0.3, and "more accurate" with 0.95 where it is 0.3.

**Stopping rule.** The list is fixed and is judged when all its runs are recorded, whatever they show. Row
`4-own-best-rate` is then this list's; the seeds before it stand beside. A run whose loss is no longer finite leaves the
row undecided.

**Once more**, a rule added when these twenty had been read, before its own runs. They left the row open: -0.13 points,
and an interval of -0.306 to 0.053 beside a margin of 0.3; their standard deviation was 0.46, that of all 44 seeds seen
0.40. The seeds 83 to 112, which nothing has used, judge the row alone, by the same test, when all thirty are recorded,
whatever they show; the others stand beside, and are no part of it. At a standard deviation of 0.40 points thirty say
"the same" with probability 0.98 where the truth is 0, 0.85 where it is 0.1 on either side, and 0.05 where it is 0.3.
"""

from allora_analysis.grid.command import main
from allora_analysis.grid.presets import LISTS

if __name__ == "__main__":
    raise SystemExit(main("own_best_fresh", LISTS["own_best_fresh"], doc=__doc__))
