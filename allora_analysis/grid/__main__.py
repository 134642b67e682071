"""`python -m allora_analysis.grid`: what is in it, and the commands that run its lists."""

from allora_analysis import cli, grid

COMMANDS = {
    "python -m experiments.perception --dry-run": "an experiment's list: what is recorded, how long the rest takes",
    "python -m experiments status": "count and verify all records",
    "python -m experiments reproduce --sample 1": "a recorded run made again",
}

if __name__ == "__main__":
    raise SystemExit(cli.about(grid, COMMANDS))
