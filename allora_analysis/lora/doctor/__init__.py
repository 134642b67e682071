"""§4, the doctor: is ALLoRA really on, and what do the optimizer and the clipping make of it?

- `diagnosis.py`: `doctor(model, optimizer, max_grad_norm)` and the `Diagnosis` that it returns
- `layer_report.py`: one adapter's numbers, and what is left of its factor when the parameters move
- `probe.py`: a layer's backward pass, measured on the layer alone
- `prognosis.py`: what an optimizer makes of a row factor, measured on a fresh one; what clipping makes of the gradients
- `advice.py`: what to say about it, with the way out; `texts.py`: the sentences
- `table.py`: all of it as text
"""

from allora_analysis.lora.doctor.advice import Advice
from allora_analysis.lora.doctor.diagnosis import Diagnosis, doctor
from allora_analysis.lora.doctor.layer_report import LayerReport
from allora_analysis.lora.doctor.prognosis import Clipping, OptimizerEffect

__all__ = ["Advice", "Clipping", "Diagnosis", "LayerReport", "OptimizerEffect", "doctor"]
