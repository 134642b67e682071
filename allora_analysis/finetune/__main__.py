"""`python -m allora_analysis.finetune`."""

from allora_analysis.cli import main
from allora_analysis.finetune.study import STUDY

if __name__ == "__main__":
    raise SystemExit(main(STUDY))
