"""`python -m allora_analysis.ripple`."""

from allora_analysis.cli import main
from allora_analysis.ripple.study import STUDY

if __name__ == "__main__":
    raise SystemExit(main(STUDY))
