"""LoRA's Hessian at zero initialisation in pretrained transformers, layer by layer (§3.2): measured runs.

- `setting`: one run, which is one layer of one model; `lists`: the runs that `experiments/hessian.py` states
- `adapted`: the model from that layer on, with adapters, as a function that torch can differentiate twice
- `measurement`: both ends of the spectrum, or all of it, beside the counts that the ranks of G foretell
- `run`: from a setting to its record; `reading`: what is recorded

The mathematics is `allora_analysis.hessian`'s. Checked by `tests/test_zero_initialisation.py`.
"""
