"""`python -m allora_analysis.deviation`: the exact Monte Carlo error of dropout's loss beside the paper's bound."""

from allora_analysis.cli import main
from allora_analysis.deviation.study import STUDY

if __name__ == "__main__":
    raise SystemExit(main(STUDY))
