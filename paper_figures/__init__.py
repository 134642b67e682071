"""The paper's figures redrawn from records, one file each: `load_data()` and `make_figure()`, nothing costly.

| file | figure |
| --- | --- |
| `figure_1` | standard deviation of gradients over dropout masks, MNIST and CIFAR-10, with the controls it lacked |
| `figure_5` | the adaptor 1/√(|x| + 1/η²), with the family beside it; from its closed form, no records |

`python -m paper_figures` draws all of them into `docs/`.
"""

FIGURES = ("figure_1", "figure_5")
