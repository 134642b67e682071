"""`python -m allora_analysis.claims.tables`: the disagreements among the paper's reported numbers."""

from allora_analysis.claims.tables.study import STUDY
from allora_analysis.cli import main

if __name__ == "__main__":
    raise SystemExit(main(STUDY))
