"""§4.4–5.2 and Appendices B, D, E: one fine-tuning run of one arm, on one model and one data set, to one record.

- `setting`: what a run is; its fields are the record's key
- `data`: classification and multiple-choice sets, from a folder of JSON lines or the hub
- `models`: model and tokenizer, from a folder, a GGUF file or the hub; the padding token
- `sources`: where models and data are found by their names; digests
- `arms`: each arm's adapters and optimizer, all baselines PEFT's own
- `trainer`: what all tasks ask of transformers' Trainer, and what is measured along the way
- `tasks`: what classification and multiple choice give it: rows, loss, accuracy
- `training`: from the start, or from a killed run's newest whole checkpoint, to the result
- `machine`: several processes, one run; memory; libraries kept quiet
- `run`: the result to its record, or the record that is there, and whether it is whole
- `study`: `python -m allora_analysis.finetune`

Names that need torch, transformers or PEFT are loaded with the file that holds them.
"""

from allora_analysis.finetune.setting import ARMS, PROTOCOL, STUDY, Setting

__all__ = ["ARMS", "PROTOCOL", "STUDY", "Setting"]
