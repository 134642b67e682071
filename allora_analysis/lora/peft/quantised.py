"""§4: ALLoRA's rule over bitsandbytes' 4-bit and 8-bit linear layers: the base is read, A and B are as ever.

Imported only where such a layer is adapted. Checked by `tests/test_lora_peft_quantised.py`, against the layer whose
weight is the dequantized one.
"""

import bitsandbytes
from peft.tuners.lora import bnb

from allora_analysis.lora.peft.layer import ALLoRALayer


class ALLoRALinear4bit(ALLoRALayer, bnb.Linear4bit):
    """x ↦ Wx + Σ s·BAx with W in 4 bits, as QLoRA keeps it."""

    quantised = True

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """W ← W + Σ s·BA, quantized again."""
        self.check_merge(adapter_names)
        self._unpack()
        super().merge(safe_merge=safe_merge, adapter_names=adapter_names)

    def unmerge(self) -> None:
        """W ← W − Σ s·BA, quantized again."""
        self._unpack()
        super().unmerge()

    def _unpack(self) -> None:
        # On a CPU an evaluation packs the weight in another order, in which PEFT would misread it; saving unpacks it.
        self.get_base_layer().state_dict()


class ALLoRALinear8bitLt(ALLoRALayer, bnb.Linear8bitLt):
    """x ↦ Wx + Σ s·BAx with W in 8 bits."""

    quantised = True


LAYERS = {bitsandbytes.nn.Linear4bit: ALLoRALinear4bit, bitsandbytes.nn.Linear8bitLt: ALLoRALinear8bitLt}
