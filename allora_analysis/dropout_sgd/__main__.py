"""`python -m allora_analysis.dropout_sgd`."""

from allora_analysis.cli import main
from allora_analysis.dropout_sgd.study import STUDY

if __name__ == "__main__":
    raise SystemExit(main(STUDY))
