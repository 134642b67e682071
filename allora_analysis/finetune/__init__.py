"""§4.4–4.6 and Appendices B, D, E: one fine-tuning run of one arm, on one model and one data set, to one record.

- `setting`: what a run is; its fields are the record's key
- `data`, `splits`, `choices`: classification and multiple-choice sets, from a folder of JSON lines or the hub
- `models`, `sources`: model and tokenizer, from a folder, a GGUF file or the hub; the padding token; digests
- `arms`: each arm's adapters and optimiser, all baselines PEFT's own
- `classification`, `multiple_choice`: what each task asks (`asked`) of the Trainer: rows, loss, accuracy
- `trainer`, `history`: transformers' Trainer, and what is measured along the way
- `checkpoints`, `claim`, `processes`: which of a killed run's checkpoints is whole; one holder a run; several processes
- `training`, `memory`: from the start, or from where it was stopped, to the result
- `run`: the result to its record, or the record that is there; `results`: what a record holds of it
- `quiet`: what a user need not read
- `study`: `python -m allora_analysis.finetune`

Names that need torch, transformers or PEFT are loaded with the file that holds them.
"""

from allora_analysis.finetune.setting import ARMS, PROTOCOL, STUDY, Setting

__all__ = ["ARMS", "PROTOCOL", "STUDY", "Setting"]
