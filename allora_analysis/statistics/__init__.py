"""Tests, intervals and sample sizes: what every empirical verdict of the toolkit rests on.

| file | object |
| --- | --- |
| `paired` | Student's t over paired differences |
| `families` | power of the paired t-test, the n it needs, the effect it sees; comparisons tested together, Holm's way |
| `directional` | one-sided tests, equivalence, families of both: the rule by which the ledger judges a comparison |
| `e_values` | sequential tests of paired differences, valid whenever one stops |
| `intervals` | the ratio of two means, by Fieller; the mean over seeds and test rows at once |

SciPy is imported where a function needs it. Every number is float64; n is fixed before the data are seen.
"""

from allora_analysis.statistics.directional import (
    Decision,
    Judgement,
    OneSided,
    decide,
    in_every,
    judge_family,
    one_sided,
    sides,
    units_to_reject,
    within,
)
from allora_analysis.statistics.families import (
    Difference,
    accuracy_stderr,
    detectable_effect,
    holm,
    paired_family,
    power,
    required_n,
    required_n_interval,
)
from allora_analysis.statistics.intervals import Ratio, TwoLevel, ratio_of_means, two_level

__all__ = [
    "Decision",
    "Difference",
    "Judgement",
    "OneSided",
    "Ratio",
    "TwoLevel",
    "accuracy_stderr",
    "decide",
    "detectable_effect",
    "holm",
    "in_every",
    "judge_family",
    "one_sided",
    "paired_family",
    "power",
    "ratio_of_means",
    "required_n",
    "required_n_interval",
    "sides",
    "two_level",
    "units_to_reject",
    "within",
]
