"""The paper section by section, in notebooks that run: mathematics, the package's numbers beside it, exercises.

| notebook | section |
| --- | --- |
| `0_the_ledger` | every statement and its verdict: how one is computed, and what would change it |
| `1_dropout` | §3.1, Appendix A, Figure 1: dropout as a regularizer, in expectation and in few steps |
| `2_zero_initialisation` | §3.2: the Hessian in the product and in (A, B), the start, leaving it |
| `3_ripple` | §3.3: the worst case of the scaling factor, and the typical one |
| `4_allora` | §4.1–4.3, Figures 2 (right) and 5: the adaptive rate, what it does and what it is not |
| `5_fine_tuning` | §4.4–5.2: the reported tables, training with PEFT, recorded runs |

`python -m notebooks` executes all of them in place; `--check` executes them and writes nothing.
"""

import allora_analysis  # noqa: F401 - first, so that Ctrl-C ends in a line while the rest is imported

NOTEBOOKS = ("0_the_ledger", "1_dropout", "2_zero_initialisation", "3_ripple", "4_allora", "5_fine_tuning")
