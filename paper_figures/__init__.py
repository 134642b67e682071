"""The paper's figures and tables redrawn, and those that it lacks: one file each, nothing costly.

| file | what it shows |
| --- | --- |
| `figure_1` | standard deviation of gradients over dropout masks, MNIST and CIFAR-10, with the controls it lacked |
| `figure_2` | accuracy by epoch and drop rate; how fast the row norms of BA leave 0, under which optimizer |
| `figure_3` | gaps between ALLoRA, LoRA and ALLoRA-0; `figure_4`: between ALLoRA and the rest of its family |
| `figure_5` | the adaptor 1/√(|x| + 1/η²), with the family beside it |
| `table_1` … `table_4` | as Markdown and as LaTeX, the paper's cell beside ours |
| `eta_squared` | the main result: accuracy over η², rising in print, flat under AdamW |
| `ripple` | §3.3: the worst case of a scaling factor against a typical network |
| `transformer` | §3.3 in two pretrained transformers: what becomes of "exponential in L" |
| `zero_initialisation` | §3.2: the spectrum of the Hessian in (A, B) at B = 0 and at A = B = 0 |
| `deviation` | §3.1: the exact distance of an average over masks from its expectation, against the bound |
| `crossover` | §3.1: the step from which dropout is ahead of plain gradient descent |
| `escape` | §4.2: leaving zero under each optimizer |
| `width` | §4.2: as the width grows, ALLoRA's factor tends to η; which learning rates stay right |
| `learning_rates` | every arm over a range of learning rates |
| `procedures` | Table 3's rise with η² beside what eight training procedures predict, and give on digits |
| `laboratory` | the contrasts of a small network that trains in seconds, each arm at its best rate |
| `screening` | the same network over rule, adaptor, η², dropout and optimizer: level by level minus LoRA |

A file of a picture has `load_data()` and `make_figure(loaded)`, one of a table `load_data()` and `make_table(loaded)`;
`load_data(folder)` reads the records of that folder in place of the repository's own. `sources` says what they hand on,
`numbers` and `gaps` what they share. The paper's numbers come from `allora_analysis.claims.tables.reported`, ours from
committed records and closed forms: where a record is missing the picture says which command makes it.
`python -m paper_figures` draws all of them into `docs/`.
"""

import allora_analysis  # noqa: F401 - first, so that Ctrl-C ends in a line while the rest is imported

NAMES = (
    *(f"figure_{number}" for number in range(1, 6)),
    *(f"table_{number}" for number in range(1, 5)),
    "eta_squared",
    "ripple",
    "transformer",
    "zero_initialisation",
    "deviation",
    "crossover",
    "escape",
    "width",
    "learning_rates",
    "procedures",
    "laboratory",
    "screening",
)
