"""What a test gives a worker of the ledger to do: nothing, for long."""

import time


def examine(ids, results, seed):
    time.sleep(600)
