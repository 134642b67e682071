"""§4, the layers: ALLoRA and every arm that the paper compares it with, for training through PEFT or plain PyTorch.

- `functional.py`, `autograd.py`: the forward and backward passes as functions of tensors, a frozen linear's included
- `layers.py`: `ALLoRALinear`, a plain `nn.Module`
- `peft/`: `allora_config` for `peft.get_peft_model`; saving, loading, merging, exporting
- `optim.py`, `kernels.py`, `pairs.py`: `ALLoRAAdamW`, the row factor applied after Adam; a model's pairs as its groups
- `doctor/`, `callback.py`: is ALLoRA really on? In a call, and in transformers' Trainer

Nothing is imported here: torch and PEFT load with the file that needs them.
"""
