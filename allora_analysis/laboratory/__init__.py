"""A laboratory where a run takes about a second: a small network pretrained on some classes, adapted to the others.

| file | object |
| --- | --- |
| `design` | a cell (rule, adaptor, η², optimizer, dropout, steps), the screening design, the named contrasts |
| `training` | the pretrained network, one run of one cell |
| `bench` | what tunes a cell, and runs it at the rates among which its judging seeds choose |
| `table` | the compact table of a list: written run by run, resumed, read; effects with their intervals |
| `storage` | its files: lines appended to a plain one, then packed |
| `features` | dropout on a language model's features: training, trials, records |

`python -m experiments.laboratory` states the rules and runs the list. Nothing is imported here: torch loads with
`training` alone.
"""
