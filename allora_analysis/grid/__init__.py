"""Many fine-tuning runs: in this process, in processes beside it, or on a Slurm cluster.

- `plan`: what is to be run, what is recorded of it, how long the rest will take; the runs one by one in this process
- `jobs`: the runs as jobs through submitit: processes beside this one, or an array on a Slurm cluster
- `presets`: the runs of each experiment, and the command that makes some of them
- `reading`: what is recorded of them, for the ledger and the figures
- `reproduce`: a recorded run made again, and how far it agrees
- `command`: the command line that all experiments share

Whatever runs them, runs go through `finetune.run`: a recorded one is not run again, one that was stopped goes on from
its checkpoint, and two processes are never at one run.
"""

from allora_analysis.grid.plan import Grid, Summary, Task, run

__all__ = ["Grid", "Summary", "Task", "run"]
