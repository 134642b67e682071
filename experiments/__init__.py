"""The long runs: one file per figure or table that needs them; what they measured is committed below `results/`.

| file | what it settles |
| --- | --- |
| `gradient_std` | Figure 1: does the gradient's spread over dropout masks fall on average and rise at worst? |
| `dropout_rates` | Figure 2 left, Table 2: does dropout cost accuracy early and help late? |
| `dropout_alone` | ours: the same by test loss, the model's own dropout off: does it cost early and help late? |
| `dropout_early` | ours: after one epoch again, on fresh seeds: is a cost smaller than 0.02 nats? |
| `row_norms` | Figure 2 right: how fast do the row norms of BA leave 0, under which optimizer? |
| `induced_norms` | §3.3: how long does ηBA end beside W*, in the induced norm? |
| `commonsense` | Table 1: are ALLoRA and ALLoRA-0 better than DoRA on commonsense questions? |
| `perception` | Table 3, Figure 3: is ALLoRA better than LoRA, with and without the classifier's faster rate? |
| `ablation` | Table 4, Figure 4: is ALLoRA better than the rest of its family? |
| `on_the_update` | ours: Tables 3 and 4 with ALLoRA's factor on AdamW's update, at the paper's rate |
| `unclipped` | ours: Tables 3 and 4 under SGD with nothing clipped, at a rate chosen for it |
| `hessian` | §3.2: do both ends of pretrained models' Hessians at B = 0 have the signs that the ranks foretell? |
| `learning_rates` | ours: every arm at its own best learning rate |
| `own_best_rate` | ours: each arm at its own best rate, with seeds until it is decided; rules before runs |
| `own_best_fresh` | ours: the first of these again, on fresh seeds, their numbers fixed beforehand |
| `laboratory` | ours: a network of seconds a run: rule, adaptor, η², optimizer, dropout and length crossed |
| `one_rate` | ours: Tables 3 and 4 on that network, every arm at one base rate; which procedure rises as Table 3 does |
| `dropout_features` | ours: on a language model's features of text, does dropout pay after few steps, or after many? |
| `stable_rates` | ours: is the doctor's largest stable rate where recorded runs stop training? |
"""

import allora_analysis  # noqa: F401 - first, so that Ctrl-C ends in a line while the rest is imported
