"""`python -m allora_analysis.finetune`."""

import os
import sys

from allora_analysis.cli import main
from allora_analysis.finetune.machine import rank
from allora_analysis.finetune.study import STUDY

if __name__ == "__main__":
    if rank():  # of several processes the first speaks for all
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    raise SystemExit(main(STUDY))
