"""Rows for a ledger in several processes, one of which ends its process as the kernel does where no memory is left."""

import os

DYING = "3.3-norm"


def examine(ids, results, seed):
    """In the place of `ledger._examine`; a function of a module, since a new process finds it by its name."""
    if DYING in ids:
        os._exit(9)
    return dict.fromkeys(ids, (None, "it was run"))
