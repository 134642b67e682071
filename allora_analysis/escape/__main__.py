"""`python -m allora_analysis.escape`."""

from allora_analysis.cli import main
from allora_analysis.escape.study import STUDY

if __name__ == "__main__":
    raise SystemExit(main(STUDY))
