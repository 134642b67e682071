"""The ALLoRA paper, taken apart: closed forms, simulations and a computed verdict for each of its statements.

`python -m allora_analysis` prints the ledger. The map from the paper's sections to modules:

| section | module |
| --- | --- |
| §3.1, dropout as Tikhonov regularization | `tikhonov` |
| §3.1 and Appendix A, the Monte Carlo bound | `deviation` |
| §3.1, SGD under dropout in finitely many steps | `dropout_sgd` |
| §3.1, Figure 1: the gradient's standard deviation across masks | `gradient_std`, with `images` |
| §3.2, zero initialization | `hessian` |
| §3.3, the ripple effect | `ripple` |
| Tables 1-4 and Figures 3-4 as reported | `claims.tables.reported` |
"""

import os
import signal
import sys

__version__ = "0.1.0"


def _interrupted(*_: object) -> None:
    # Ctrl-C while a command imports. An exception could be caught by what is imported, or wrapped into another.
    try:
        os.write(2, b"interrupted: nothing was finished yet\n")
    finally:
        os._exit(130)


# While `python -m` looks for one of our commands, its first argument is "-m"; `cli.guarded` puts Ctrl-C right again.
if (
    sys.argv[:1] == ["-m"]
    and {word.partition(".")[0] for word in sys.orig_argv}
    & {"allora_analysis", "experiments", "notebooks", "paper_figures"}
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, _interrupted)
