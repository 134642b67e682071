"""§4.4–4.6 and Appendices B, D, E: one fine-tuning run of one arm, on one model and one data set, to one record.

- `setting`: what a run is; its fields are the record's key
- `data`, `splits`: classification and multiple-choice sets, from a folder of JSON lines or the hub
- `models`, `sources`: model and tokenizer, from a folder, a GGUF file or the hub; the padding token; digests
- `arms`: each arm's adapters and optimizer, all baselines PEFT's own
- `classification`, `multiple_choice`: what each `task` gives the Trainer: rows, loss, accuracy
- `trainer`, `history`, `progress`: transformers' Trainer, what is measured along the way, and what a user sees of it
- `training`, `memory`: from the start, or from a killed run's newest whole checkpoint, to the result
- `run`, `results`, `processes`: the result to its record, or the record that is there; several processes, one run
- `study`: `python -m allora_analysis.finetune`

Names that need torch, transformers or PEFT are loaded with the file that holds them.
"""

from allora_analysis.finetune.setting import ARMS, PROTOCOL, STUDY, Setting

__all__ = ["ARMS", "PROTOCOL", "STUDY", "Setting"]
