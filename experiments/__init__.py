"""The long runs: one file per figure or table that needs them; what they measured is committed below `results/`.

| file | what it settles |
| --- | --- |
| `gradient_std` | Figure 1: does the gradient's spread over dropout masks fall on average and rise at worst? |
"""
