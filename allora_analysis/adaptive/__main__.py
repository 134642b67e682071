"""`python -m allora_analysis.adaptive`: what is in it, and the rows of the ledger that rest on it."""

from allora_analysis import adaptive, cli

COMMANDS = {
    "python -m allora_analysis --only 4-descent --long": "does a step along ALLoRA's update lower the loss?",
    "python -m allora_analysis --section 4": "every row on ALLoRA's rule",
    "python -m allora_analysis.escape": "the study beside it: how BA leaves zero under each optimizer",
}

if __name__ == "__main__":
    raise SystemExit(cli.about(adaptive, COMMANDS))
