"""The paper's reported numbers, checked: Tables 1–4, Figures 3 and 4, and the sentences that rest on them.

| file | object |
| --- | --- |
| `reported.toml`, `reported.py` | the printed numbers; each against a recomputed one: averages, gaps, parameters |
| `accuracies.py` | which accuracies so many test examples can produce; distance to the majority label's rate |
| `contrasts.py` | gaps between arms, their clusters, the questions that they answer, and the rule applied to them |
| `table_1.py`, `tables_2_to_4.py`, `procedures.py` | the ledger's rows, Figures 3 and 4 too |
| `prose_of_results.py`, `universally.py`, `beyond_chance.py` | rows on what the text says of the tables |
| `cited_works.py` | rows on what other authors publish: DoRA's setup and rates, which work followed which |
| `study.py` | `python -m allora_analysis.claims.tables`: the disagreements, and all tests of the contrasts |
"""

from allora_analysis.claims.tables.accuracies import perception_cells
from allora_analysis.claims.tables.study import contrast_summaries, seeds_needed

__all__ = ["contrast_summaries", "perception_cells", "seeds_needed"]
