"""`python -m allora_analysis.width`: the study on the command line."""

from allora_analysis.cli import main
from allora_analysis.width.study import STUDY

if __name__ == "__main__":
    raise SystemExit(main(STUDY))
