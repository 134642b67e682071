"""§4, the layers: ALLoRA and every arm that the paper compares it with, for training through PEFT or plain PyTorch.

- `functional.py`: the forward and backward passes as functions of tensors
- `layers.py`: `ALLoRALinear`, a plain `nn.Module`
- `peft.py`: `allora_config` for `peft.get_peft_model`; saving, loading, merging, exporting
- `optim.py`: `ALLoRAAdamW`, the row factor applied after Adam
- `doctor.py`: is ALLoRA really on?

Nothing is imported here: torch and PEFT load with the file that needs them.
"""
