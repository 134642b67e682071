"""The paper's figures redrawn from records, one file each: `load_data()` and `make_figure()`, nothing costly.

| file | figure |
| --- | --- |
| `figure_1` | standard deviation of gradients over dropout masks, MNIST and CIFAR-10, with the controls it lacked |

`python -m paper_figures` draws all of them into `docs/`.
"""

FIGURES = ("figure_1",)
