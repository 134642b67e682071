"""LoRA's Hessian at zero initialization in pretrained transformers, layer by layer (§3.2): measured runs.

- `run`: one run, which is one layer of one model, from its setting to its record; the list of runs; what is recorded
- `measurement`: the model from that layer on, with adapters, as a function that torch can differentiate twice; both
  ends of its spectrum, or all of it, beside the counts that the ranks of G foretell

The mathematics is `allora_analysis.hessian`'s. Checked by `tests/test_zero_initialisation.py`.
"""
