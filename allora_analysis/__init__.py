"""The ALLoRA paper, taken apart: closed forms, simulations and a computed verdict for each of its statements.

`python -m allora_analysis` prints the ledger. The map from the paper's sections to modules:

| section | module |
| --- | --- |
| §3.1, dropout as Tikhonov regularisation | `tikhonov` |
| §3.1 and Appendix A, the Monte Carlo bound | `deviation` |
| §3.1, SGD under dropout in finitely many steps | `dropout_sgd` |
| §3.1, Figure 1: the gradient's standard deviation across masks | `gradient_std`, with `images` |
| §3.2, zero initialisation | `hessian` |
| §3.3, the ripple effect | `ripple` |
| Tables 1-4 and Figures 3-4 as reported | `claims.tables.reported` |
"""

import sys

__version__ = "0.1.0"

if sys.argv[:1] == ["-m"]:  # `python -m allora_analysis…` is still importing: Ctrl-C is a line there too

    def _stop(kind, error, trace, /, usual=sys.excepthook):
        if not issubclass(kind, KeyboardInterrupt):
            usual(kind, error, trace)
            return
        import os

        print("interrupted: nothing was finished yet", file=sys.stderr, flush=True)
        os._exit(130)

    sys.excepthook = _stop
