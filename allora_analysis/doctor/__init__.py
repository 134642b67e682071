"""The doctor of a LoRA run, `python -m allora_analysis.doctor`: a saved adapter, a run's settings, a number of seeds.

It needs to know nothing of ALLoRA. A live model and optimizer of any library: `allora_analysis.lora.doctor`.

| file | object |
| --- | --- |
| `saved.py` | an adapter in a file: its pairs, scalings, row norms |
| `answers.py` | what the doctor says, topic by topic |
| `seeds.py` | how many seeds decide a gap, from records or from one's own numbers |
| `edge.py` | the largest stable learning rate of a pretrained model with LoRA, on one batch; beside recorded curves |
"""
