"""Files that are corrupted or lie, to every reader: `python -m tests.hardening.files`.

A whole file of each kind that the toolkit reads is altered at random: cut, a bit flipped, bytes put in or taken out,
a value of another type or size, a hostile name, JSON nested 10⁵ deep, a length of 1 GB or more claimed, a pickle, a
zip bomb, a link, a folder or nothing in its place. What may come of it: what the whole file says, another value that
the file really holds, or one line of refusal, within ten seconds, 1 GB and the folder; and no code of the file's runs.
A record is sealed: what is read of it must be what was recorded.
"""

import collections
import io
import json
import os
import resource
import shutil
import struct
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from allora_analysis.validation import ArgumentError
from tests.hardening import command_line, progress, record
from tests.hardening.fuzz import SECONDS, TooSlow, limited, waited

COMMAND = "python -m tests.hardening.files"
FILES = 10_000
GIGABYTE = 2**30
VALUES = (
    None, True, -1, 0, 1e308, 10**400, float("nan"), float("inf"), "", "../../../etc/passwd", "/dev/zero", "a\0b", [],
    [[[]]], {}, {"__reduce__": ["os.system", "touch ran"]}, "__import__('os').system('touch ran')", 2**31, -(2**63),
)  # fmt: skip


# Unpickled, it leaves a file named `ran`.
BOMB = b"cos\nsystem\n(S'touch ran'\ntR."


class Reader(NamedTuple):
    """A kind of file: what writes one (and returns its path), the reader, and whether it is sealed."""

    write: Callable[[Path], Path]
    read: Callable[[Path], Any]
    sealed: bool = False


def _record(folder: Path) -> Path:
    from allora_analysis import records

    kept = {"protocol": 1, "digests": {"data": "0" * 64}, "provenance": {"time_utc": "2025-01-01T00:00:00+00:00"}}
    return records.save(
        folder, "toy", {"seed": 1, "rates": [0.1, 1e-3]}, {"epochs": [1, 2.5], "log": None}, **kept
    ).path


def _found(path: Path) -> Any:
    from allora_analysis import records

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", records.SetAsideWarning)
        found = records.find(path.parent)
        records.status(path.parent, {"toy": 1})
    return [(one.config, one.result, one.digests) for one in found]


def _table(folder: Path) -> Path:
    from allora_analysis.laboratory import table as tables
    from allora_analysis.laboratory.design import Cell

    table = tables.begin(folder / "digits.jsonl", tables.header("digits", "0" * 64, 5, 100))
    for rate in (0.1, 0.2, 0.3):
        tables.add(table, (Cell("lora"), rate, 0, 2), tables.Row((0.1, 0.2), (3, 4), (1.0, None)))
    return folder / "digits.jsonl"


def _rows(path: Path) -> Any:
    from allora_analysis.laboratory import table as tables

    return {str(cell): of for cell, of in tables.read(path).rows.items()}


def _adapter(folder: Path, name: str) -> Path:
    import torch
    from peft import get_peft_model

    from allora_analysis.lora.peft import allora_config

    torch.manual_seed(0)
    base = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 4))
    get_peft_model(base, allora_config(eta=2.0, r=2, target_modules=["0", "1"])).save_pretrained(folder)
    return folder / name


def _diagnosed(path: Path) -> Any:
    from allora_analysis.doctor import __main__ as doctor

    return [(section.lines, section.table) for section in doctor.sections(doctor.Arguments(adapter=path.parent))]


def _attached(path: Path) -> Any:
    import torch

    from allora_analysis.lora.peft import load

    torch.manual_seed(0)
    model = load(torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 4)), path.parent)
    answer = model(torch.ones(1, 6)).detach().numpy()
    assert np.isfinite(answer).all(), "an output that is not finite"
    return answer


def _images(folder: Path) -> Path:
    rng, path = np.random.default_rng(0), folder / "own.npz"
    x, y = rng.integers(0, 255, (40, 4, 4)).astype(np.uint8), np.arange(40) % 4
    np.savez_compressed(path, x_train=x[:30], y_train=y[:30], x_test=x[30:], y_test=y[30:])
    return path


def _loaded_images(path: Path) -> Any:
    from allora_analysis import images

    found = images.load(str(path))
    assert np.isfinite(found.x_train).all(), "images that are not finite"
    return found.digest


def _texts(folder: Path) -> Path:
    from tests import tiny_finetune as tiny

    return tiny.sentences(folder / "data", 6) / "train.jsonl"


def _loaded_texts(path: Path) -> Any:
    from allora_analysis.finetune import data

    return data.load(str(path.parent)).digest


def _model(folder: Path, name: str) -> Path:
    from tests import tiny_finetune as tiny

    return tiny.bert(folder / "bert") / name


def _loaded_model(path: Path) -> Any:
    # As a run reads it: its digest, then transformers' classes.
    import torch

    from allora_analysis.finetune import models, sources

    where = str(path if path.suffix == ".gguf" else path.parent)
    torch.manual_seed(0)
    return sources.digest(where), type(models.load(where, 2).model).__name__


def _gguf(folder: Path) -> Path:
    import gguf

    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    writer.add_block_count(1)
    writer.add_tensor("token_embd.weight", np.ones((4, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "model.gguf"


READERS = {
    "a record": Reader(_record, _found, sealed=True),
    "the laboratory's table": Reader(_table, _rows),
    "adapter_config.json, loaded": Reader(lambda folder: _adapter(folder, "adapter_config.json"), _attached),
    "adapter_model.safetensors, loaded": Reader(
        lambda folder: _adapter(folder, "adapter_model.safetensors"), _attached
    ),
    "adapter_config.json, diagnosed": Reader(lambda folder: _adapter(folder, "adapter_config.json"), _diagnosed),
    "adapter_model.safetensors, diagnosed": Reader(
        lambda folder: _adapter(folder, "adapter_model.safetensors"), _diagnosed
    ),
    "images in .npz": Reader(_images, _loaded_images),
    "texts in .jsonl": Reader(_texts, _loaded_texts),
    "a model's config.json": Reader(lambda folder: _model(folder, "config.json"), _loaded_model),
    "a model's model.safetensors": Reader(lambda folder: _model(folder, "model.safetensors"), _loaded_model),
    "a model's tokenizer.json": Reader(lambda folder: _model(folder, "tokenizer.json"), _loaded_model),
    "a model in .gguf": Reader(_gguf, _loaded_model),
}


def _other_value(document: Any, rng: np.random.Generator) -> Any:
    # One value somewhere in a JSON document replaced, or a key of another name.
    if isinstance(document, dict) and document and rng.random() < 0.9:
        name = list(document)[rng.integers(len(document))]
        if rng.random() < 0.15:
            return {key: value for key, value in document.items() if key != name}
        if rng.random() < 0.1:
            return document | {str(VALUES[rng.integers(len(VALUES))]): document[name]}
        return document | {name: _other_value(document[name], rng)}
    if isinstance(document, list) and document and rng.random() < 0.8:
        place = int(rng.integers(len(document)))
        return [*document[:place], _other_value(document[place], rng), *document[place + 1 :]]
    return VALUES[rng.integers(len(VALUES))]


def _json_of(content: bytes) -> tuple[bytes, Any, bytes]:
    # The JSON in a file: of safetensors its header, of lines the first, else all.
    if content[8:9] == b"{":
        size = struct.unpack("<Q", content[:8])[0]
        return b"head", json.loads(content[8 : 8 + size]), content[8 + size :]
    first, _, rest = content.partition(b"\n")
    try:
        return b"", json.loads(first), b"\n" + rest
    except ValueError:
        return b"", json.loads(content), b""


def spoilt(content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """A file's content altered, and how."""
    kind, at = rng.integers(10), int(rng.integers(len(content)))
    if kind == 0:
        return "cut", content[:at]
    if kind == 1:
        return "a bit flipped", content[:at] + bytes([content[at] ^ (1 << int(rng.integers(8)))]) + content[at + 1 :]
    if kind == 2:
        return "bytes put in", content[:at] + rng.bytes(int(rng.integers(1, 40))) + content[at:]
    if kind == 3:
        return "bytes taken out", content[:at] + content[at + int(rng.integers(1, 40)) :]
    if kind == 4:
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in ("x_train", "y_train", "x_test", "y_test"):
                archive.writestr(f"{name}.npy", _header(rng) + bytes(2**22 if rng.random() < 0.2 else 64))
        return "a zip that claims much", made.getvalue()
    if kind == 5:
        return "a pickle", BOMB if rng.random() < 0.5 else _zipped_pickle()
    if kind == 6:
        deep = b"[" * 100_000 + b"]" * 100_000 if rng.random() < 0.5 else b'{"a":' * 100_000 + b"1" + b"}" * 100_000
        return "JSON nested 100,000 deep", struct.pack("<Q", len(deep)) + deep if content[8:9] == b"{" else deep
    try:
        head, document, rest = _json_of(content)
    except (ValueError, UnicodeDecodeError, struct.error):
        size = struct.pack("<Q", int(rng.choice([0, 1, 2**30, 2**40, 2**63 - 1])))
        return "a length that lies", content[:at] + size + content[at + 8 :]
    text = json.dumps(_other_value(document, rng)).encode()
    lie = int(rng.choice([len(text)] * 8 + [2**30, 2**63 - 1]))
    return "another value", (struct.pack("<Q", lie) + text if head else text) + rest


def _header(rng: np.random.Generator) -> bytes:
    # An .npy header that claims a shape, or objects.
    shape = [(10**9,), (10**5, 10**5), (30, 4, 4), (2**62, 2**62), (-1,), ()][rng.integers(6)]
    kind = ["<f8", "|O", "|u1", "<c16", "<U8", "|V9999999"][rng.integers(6)]
    text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def _zipped_pickle() -> bytes:
    made, text = io.BytesIO(), b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n"
    with zipfile.ZipFile(made, "w") as archive:
        for name in ("x_train", "y_train", "x_test", "y_test"):
            archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + BOMB)
    return made.getvalue()


def placed(path: Path, rng: np.random.Generator) -> str:
    """Something that is no file in a file's place."""
    path.unlink()
    kind = rng.integers(6)
    if kind == 0:
        path.symlink_to(path.parent / "nowhere")
        return "a link to nothing"
    if kind == 1:
        path.symlink_to(path.name)
        return "a link to itself"
    if kind == 2:
        path.symlink_to("/dev/zero")
        return "a link to /dev/zero"
    if kind == 3:
        path.mkdir()
        return "a folder"
    if kind == 4:
        os.mkfifo(path)
        return "a pipe that nobody writes to"
    return "nothing"


def undisturbed(reader: Reader, path: Path) -> Any:
    """What the whole file says; None where it lacks what a reader needs."""
    try:
        return reader.read(path)
    except ArgumentError:
        return None


def attempt(reader: Reader, path: Path, whole: Any) -> str:
    """How a reader ends: "read", "another value", "refused", or what a user should never see."""
    try:
        with limited(SECONDS), waited(6 * SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seen = reader.read(path)
    except ArgumentError as error:
        return "refused" if "\n" not in str(error) else f"a refusal of several lines: {error}"
    except TooSlow:
        return "over ten seconds"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:150]}"
    if reader.sealed and isinstance(seen, list):
        return "read" if seen == whole else "refused" if not seen else "an altered record was read"
    same = np.array_equal(seen, whole) if isinstance(seen, np.ndarray) else seen == whole
    return "read" if same else "another value"


def attempts(name: str, count: int, seed: int) -> tuple[collections.Counter[str], list[str]]:
    """So many altered files of a kind."""
    reader, rng, ends, wrong = READERS[name], np.random.default_rng([seed, *name.encode()]), collections.Counter(), []
    with tempfile.TemporaryDirectory() as home:
        os.chdir(home)
        before = Path(home) / "before"
        before.mkdir()
        path = reader.write(before).relative_to(before)
        whole, content = undisturbed(reader, before / path), (before / path).read_bytes()
        for done in range(1, count + 1):
            folder = Path(home) / "folder"
            shutil.copytree(before, folder)
            if rng.random() < 0.05:
                how = placed(folder / path, rng)
            else:
                how, altered = spoilt(content, rng)
                (folder / path).write_bytes(altered)
            end = attempt(reader, folder / path, whole)
            if Path("ran").exists() or (folder / "ran").exists() or sorted(os.listdir()) != ["before", "folder"]:
                end = f"code was run, or a file left: {os.listdir()}"
            ends[end if end in ("read", "another value", "refused") else "wrong"] += 1
            if end not in ("read", "another value", "refused"):
                wrong.append(f"{name}, {how} ({done}): {end}")
            shutil.rmtree(folder)
            progress(done, count, f": {name}, {dict(ends)}")
        os.chdir("/")
    return ends, wrong


def main() -> int:
    """All kinds."""
    arguments = command_line(
        COMMAND, __doc__, "kinds; nothing is recorded", files=(FILES, "of all kinds"), seed=(0, "of what is altered")
    )
    names = [name for name in READERS if arguments.only in name]
    count, where, wrong = -(-arguments.files // len(names)), os.getcwd(), []
    rows = [["file", "altered", "read as before", "read as it is now", "refused in one line", "otherwise"]]
    for name in names:
        reader = READERS[name]
        with tempfile.TemporaryDirectory() as folder:
            undisturbed(reader, reader.write(Path(folder)))  # what it imports is not its memory
        used = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2 * GIGABYTE, resource.RLIM_INFINITY))
        ends, found = attempts(name, count, arguments.seed)
        rows.append(
            [name, *(f"{n:,}" for n in (count, *(ends[e] for e in ("read", "another value", "refused", "wrong"))))]
        )
        wrong += found
        print(f"{name}: {dict(ends)}", *found[:30], sep="\n  ", flush=True)
    os.chdir(where)
    if not arguments.only:
        found = "no code run, nothing read that a record's seal does not cover, one line each"
        what = "altered and hostile files: cut, flipped, other types, deep, lengths of 1 GB, pickles, zip bombs, links"
        found = found if not wrong else f"{len(wrong)} otherwise, as {wrong[0]}"
        command = COMMAND if arguments.files == FILES else f"{COMMAND} --files {arguments.files}"
        record("files", what, command, count * len(names), f"files of {len(names)} kinds", found, "nothing", rows=rows)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
