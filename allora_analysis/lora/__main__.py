"""`python -m allora_analysis.lora`: what is in it, and the commands that train with it."""

from allora_analysis import cli, lora

COMMANDS = {
    "python -m allora_analysis.finetune --help": "one fine-tuning run of one arm, recorded",
    "python -m allora_analysis --only 4-figure-2-right": "why under AdamW ALLoRA starts as LoRA; ALLoRAAdamW does not",
    "docs/training.md": "from code: allora_config for PEFT, ALLoRAAdamW, the doctor, saving and export",
}

if __name__ == "__main__":
    raise SystemExit(cli.about(lora, COMMANDS))
