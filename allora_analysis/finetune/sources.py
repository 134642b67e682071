"""What a model is called, and the digest of its files, unloaded. Checked by `tests/test_finetune_models.py`."""

from __future__ import annotations

import hashlib
from pathlib import Path

from allora_analysis import records
from allora_analysis.validation import ArgumentError

SAFE = {"model.safetensors", "model.safetensors.index.json"}  # where one is, transformers loads no other weights
UNSAFE = "pytorch_model"  # what their names start with
COUNTED = (".safetensors", ".gguf", ".bin", ".txt", ".model")  # and every .json: what makes a model what it is


def name_of(source: str) -> str:
    """What records call a model: its folder's or its file's name, or the hub id's last part."""
    path = Path(source)
    return path.stem if path.is_file() else path.resolve().name if path.exists() else path.name


def digest(source: str, remote_code: bool = False) -> str:
    """The content digest of a model's own files: weights, configs, vocabulary; a README does not count.

    Nor do pickled weights beside safetensors, which a hub's whole snapshot has and the files that were loaded have not.
    """
    path = Path(source)
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


def _snapshot(source: str, counted: tuple[str, ...]) -> Path:
    # Of a hub's files those that count: others, weights for other programs say, can be many times as large.
    from huggingface_hub import snapshot_download

    wanted, below = [f"*{suffix}" for suffix in counted], "*/*"
    try:
        path = Path(snapshot_download(source, allow_patterns=wanted, ignore_patterns=[below, f"{UNSAFE}*"]))
        if not any((path / name).exists() for name in SAFE):
            path = Path(snapshot_download(source, allow_patterns=wanted, ignore_patterns=[below]))
    except Exception as error:  # the hub's client fails in many ways of its own
        raise ArgumentError(
            f"model {source!r}: is no folder or file here, and the hub says {error!s:.150}; give a folder with "
            "config.json, weights and tokenizer, a .gguf file, or a hub id with network at hand"
        ) from None
    return path
