"""The lists of runs of the fine-tuning experiments, one file each; `experiments/` states what they are for.

The command that runs them, the ledger's rows and the figures read the same lists. Checked by
`tests/test_experiments_finetune.py`.
"""
