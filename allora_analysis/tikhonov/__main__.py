"""`python -m allora_analysis.tikhonov`."""

from allora_analysis.cli import main
from allora_analysis.tikhonov.study import STUDY

if __name__ == "__main__":
    raise SystemExit(main(STUDY))
