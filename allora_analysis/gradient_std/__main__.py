"""`python -m allora_analysis.gradient_std`."""

from allora_analysis.cli import main
from allora_analysis.gradient_std.study import STUDY

if __name__ == "__main__":
    raise SystemExit(main(STUDY))
