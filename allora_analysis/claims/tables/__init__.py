"""The paper's reported numbers, checked: Tables 1–4, Figures 3 and 4, and the sentences that rest on them.

| file | object |
| --- | --- |
| `rounding` | a printed number against a recomputed one, in exact decimals |
| `arithmetic` | Table 1's averages; every cell and average of Figures 3 and 4 |
| `parameters` | Table 1's trainable parameters, from the architectures |
| `granularity` | which accuracies so many test examples can produce |
| `majority` | distance to the majority label's rate, binomial standard errors |
| `contrasts` | gaps between arms, cell by cell, and the clusters that they fall into |
| `selection` | what the best of several settings gains by chance |
| `summaries` | sign flips, signed ranks, signs and t over clusters and cells; clusters and seeds needed |
| `audit` | all of the printed numbers that their recomputation does not round to |

`python -m allora_analysis.claims.tables` prints the disagreements and the contrasts. The numbers themselves stand in
`allora_analysis.claims.reported`; the ledger's rows in `allora_analysis.claims.section_4_tables`.
"""

from allora_analysis.claims.tables.arithmetic import Disagreement, disagreements_among
from allora_analysis.claims.tables.audit import disagreements
from allora_analysis.claims.tables.contrasts import CONTRASTS, Contrast, Gaps, gaps
from allora_analysis.claims.tables.granularity import reachable
from allora_analysis.claims.tables.majority import AboveMajority, commonsense_cells, perception_cells
from allora_analysis.claims.tables.parameters import pretrained_parameters, trainable_parameters, trainable_percent
from allora_analysis.claims.tables.rounding import Comparison
from allora_analysis.claims.tables.summaries import Summary, clusters_needed, contrast_summaries, seeds_needed

__all__ = [
    "CONTRASTS",
    "AboveMajority",
    "Comparison",
    "Contrast",
    "Disagreement",
    "Gaps",
    "Summary",
    "clusters_needed",
    "commonsense_cells",
    "contrast_summaries",
    "disagreements",
    "disagreements_among",
    "gaps",
    "perception_cells",
    "pretrained_parameters",
    "reachable",
    "seeds_needed",
    "trainable_parameters",
    "trainable_percent",
]
