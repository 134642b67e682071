"""§4, the layers: ALLoRA and every arm that the paper compares it with, for training through PEFT or plain PyTorch.

- `functional.py`, `gradients.py`, `row_norms.py`: the forward and backward passes as functions of tensors
- `fused.py`: a frozen linear and its adapter in one function
- `layers.py`: `ALLoRALinear`, a plain `nn.Module`
- `peft/`: `allora_config` for `peft.get_peft_model`; saving, loading, merging, exporting
- `optim.py`, `groups.py`, `pairs.py`: `ALLoRAAdamW`, the row factor applied after Adam; a model's pairs as its groups
- `doctor/`: is ALLoRA really on?

Nothing is imported here: torch and PEFT load with the file that needs them.
"""
