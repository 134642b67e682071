"""Small adapters as libraries save them: PEFT's folders, and .safetensors files of other libraries' names."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file


def drawn(n1=6, n2=10, r=4, size=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(r, n2, generator=generator), size * torch.randn(n1, r, generator=generator)


def peft_folder(folder: Path, layers=("q_proj", "v_proj"), size=0.1, tensors=None, **config) -> Path:
    """A folder of `save_pretrained`."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "init_lora_weights": True}
    (folder / "adapter_config.json").write_text(json.dumps(fields | config))
    found = {}
    for index, layer in enumerate(layers):
        a, b = drawn(size=size, seed=index)
        found[f"base_model.model.layers.{index}.attn.{layer}.lora_A.weight"] = a
        found[f"base_model.model.layers.{index}.attn.{layer}.lora_B.weight"] = b
    save_file(found | (tensors or {}), str(folder / "adapter_model.safetensors"))
    return folder


NAMES = {
    "kohya": ("lora_unet_attn_q.lora_down.weight", "lora_unet_attn_q.lora_up.weight"),
    "torchtune": ("layers.0.attn.q_proj.lora_a.weight", "layers.0.attn.q_proj.lora_b.weight"),
    "loralib": ("layers.0.attn.q_proj.lora_A", "layers.0.attn.q_proj.lora_B"),
    "unsaved": ("layers.0.q_proj.lora_A.default.weight", "layers.0.q_proj.lora_B.default.weight"),
}


def single_file(path: Path, library: str, alpha=None) -> Path:
    """A file of a library's names."""
    found = dict(zip(NAMES[library], drawn(), strict=True))
    if alpha is not None:
        found["lora_unet_attn_q.alpha"] = torch.tensor(float(alpha))
    save_file(found, str(path))
    return path
