"""An adapter as a library saved it: pairs by name and shape, scaling, row norms; how strongly it acts in its network.

PEFT's folders, and `.safetensors` files of kohya's scripts, torchtune's or loralib's names; no pickle. The base model
is wanted for `strength` alone: one sentence through it with c·BA on its linear maps (`ripple.transformer`), and how far
the output of the last block is from the base model's, beside that of adapters at random of the same ranks and row
norms, and the radius of convergence (`ripple.series`), the c up to which the network is a power series in c·BA. Checked
by `tests/test_doctor_saved.py` and `tests/test_doctor_strength.py`.
"""

import json
import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from allora_analysis.adaptive.recipe import alpha_of_one
from allora_analysis.adaptors import ADAPTORS
from allora_analysis.arms import VARIANTS
from allora_analysis.ripple import series
from allora_analysis.ripple.transformer import Adapters, Transformer, forward, transformer_of, turned_at_random
from allora_analysis.validation import ArgumentError, choice, count, drop_rate, ending, number, positive, shown

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PICKLES = ("adapter_model.bin", "*.bin", "*.pt", "*.pth", "*.ckpt")
_KEY = re.compile(
    r"^(?P<layer>.*?)[._]?(?P<side>lora_(?:embedding_)?[AB]|lora_[ab]|lora_down|lora_up)(?P<rest>(?:\.[^.]+)*)$"
)
_PREFIX = "base_model.model."
PEFTS_ALPHA = 8
_A_SIDES = ("lora_A", "lora_a", "lora_down", "lora_embedding_A")
SENTENCE = "the film is good, and the plot is not"
TOKENS = 4  # a radius takes some hundred passes
DRAWS = 3
AGREES = 1e-3  # with transformers' own output, relative


@dataclass(frozen=True)
class SavedPair:
    """A pair of a file.

    Attributes:
        name: the layer's; with the adapter's where the file holds several.
        n1: outputs.
        n2: inputs.
        r: the rank.
        scaling: s.
        norms: smallest, median and largest ‖s(BA)_i‖; None where A or B is not finite.
        zero: "a", "b", "both" or "": the matrix that is 0.
        experts: how many products of rank r the two hold (`target_parameters`).
        stated: the config's rank where it is another, and PEFT does not load the file.
    """

    name: str
    n1: int
    n2: int
    r: int
    scaling: float
    norms: tuple[float, float, float] | None
    zero: str
    experts: int = 1
    stated: int | None = None


@dataclass(frozen=True)
class Saved:
    """A file's pairs and what its config says.

    Attributes:
        pairs: in the file's order.
        config: adapter_config.json's, or empty; the caller's α and rsLoRA in it.
        scaled: the scaling of all pairs is known: from a config, from an alpha in the file, or given.
        magnitudes: DoRA's vectors in the file.
        left_out: A or B without its other half, or no matrices (a convolution's, or empty ones).
        beside: the names of what the file holds beside A, B, their α and DoRA's vectors: a bias, a saved module.
        assumed: α is PEFT's default, because PEFT's config beside the file says none.
    """

    pairs: tuple[SavedPair, ...]
    config: dict[str, Any]
    scaled: bool
    magnitudes: int
    left_out: int
    beside: tuple[str, ...] = ()
    assumed: bool = False

    def common(self) -> tuple[int, float, int]:
        """R and s that most pairs have together, and the most frequent n₂ of those pairs: some pair has all three."""
        (r, s), _ = Counter((pair.r, pair.scaling) for pair in self.pairs).most_common(1)[0]
        (n2, _), *_ = Counter(pair.n2 for pair in self.pairs if (pair.r, pair.scaling) == (r, s)).most_common(1)
        return r, s, n2


def read(path: Path, alpha: float | None = None, rslora: bool = False) -> Saved:
    """Read an adapter's folder or its .safetensors file; `alpha` stands in place of the config's and the file's α,
    `rslora` is s = α/√r, whatever the config says.

    Refuses a pickle, what cannot be read or holds no LoRA pair, a config whose values make no sense, and a scaling
    given for ASF-LoRA, which has none but 1.
    """
    weights, config = files(path)
    tensors, beside = _tensors(weights)
    whole, left_out = _sides(tensors)
    given: dict[str, Any] = {} if alpha is None else {"lora_alpha": positive("--alpha", alpha)}
    given |= {"use_rslora": True} if rslora else {}
    fixed = config.get("variant") == "asf_lora"
    if given and fixed:
        raise ArgumentError(f"{path}: ASF-LoRA has the scaling 1 and no other; leave --alpha and --rslora out")
    # What PEFT takes where its file says none; ours always says its own.
    unsaid = "peft_type" in config and "lora_alpha" not in config and "eta" not in config
    config = ({"lora_alpha": PEFTS_ALPHA} if unsaid else {}) | config | given
    stored = tensors.items() if alpha is None else ()
    alphas = {key.removesuffix(".alpha"): _alpha(key, value) for key, value in stored if key.endswith(".alpha")}
    stacked = _stacked(whole, config)
    pairs = tuple(_pair(name, part, config, alphas.get(part["layer"]), stacked) for name, part in whole.items())
    if not pairs:
        several = len(tensors) + len(beside)
        raise ArgumentError(
            f"{path}: no LoRA pair (lora_A and lora_B, lora_down and lora_up, …) among {several} tensors"
            + (f"; {left_out} with no other half or no matrix (a convolution's) are not read" if left_out else "")
            + ("" if tensors else "; a whole or merged model? give the adapter's folder")
        )
    own = all(part["layer"] in alphas for part in whole.values())
    assumed = unsaid and alpha is None and not own
    known = fixed or config.get("lora_alpha") is not None or own
    magnitudes = sum("lora_magnitude_vector" in key or key.endswith("dora_scale") for key in tensors)
    return Saved(pairs, config, known, magnitudes, left_out, beside, assumed)


def matrices(path: Path, saved: Saved) -> dict[str, tuple[Any, Any]]:
    """A and s·B of every pair that `read` found at a path, by the layer's name, as NumPy's float64."""
    parts = {name.removeprefix(_PREFIX): part for name, part in _sides(_tensors(files(path)[0])[0])[0].items()}
    return {
        pair.name: (parts[pair.name]["a"].double().numpy(), pair.scaling * parts[pair.name]["b"].double().numpy())
        for pair in saved.pairs
    }


def _sides(tensors: dict[str, Any]) -> tuple[dict[str, dict[str, Any]], int]:
    # A, B and the layer of each pair by its name, and how many are no pair.
    sides: dict[tuple[str, str], dict[str, Any]] = {}
    for key, value in tensors.items():
        if found := _KEY.match(key):
            adapter = found["rest"].removesuffix(".weight").removeprefix(".")
            part = sides.setdefault((found["layer"], adapter), {"layer": found["layer"]})
            part["a" if found["side"] in _A_SIDES else "b"] = value
    whole = {key: part for key, part in sides.items() if _whole(part)}
    several = len({adapter for _, adapter in whole}) > 1
    named = {f"{layer} ({adapter})" if several else layer: part for (layer, adapter), part in whole.items()}
    return named, len(sides) - len(whole)


def files(path: Path) -> tuple[Path, dict[str, Any]]:
    """The file of an adapter's weights, and its config beside them, empty where there is none."""
    if not os.path.exists(path):
        raise ArgumentError(f"adapter {str(path)!r}: no such folder or file; give a saved adapter's folder")
    weights = path / WEIGHTS if path.is_dir() else path
    if path.is_dir() and not weights.exists():
        others = sorted(path.glob("*.safetensors"))
        if len(others) == 1:
            weights = others[0]
        elif any(next(path.glob(name), None) for name in _PICKLES):
            raise ArgumentError(
                f"adapter {str(path)!r}: holds a pickle, which runs code when read; save as safetensors"
            )
        else:
            below = ", ".join(sorted(one.parent.name for one in path.glob(f"*/{WEIGHTS}")))
            way = f"there is one in {below}: name that folder" if below else "save_pretrained writes it"
            raise ArgumentError(f"adapter {str(path)!r}: holds no {WEIGHTS}; {way}")
    if weights.suffix != ".safetensors":
        text = weights.suffix in (".json", ".md", ".txt")
        way = "give the folder that it is in" if text else "others are pickles, which run code when read"
        raise ArgumentError(f"adapter {str(path)!r}: a .safetensors file wanted; {way}")
    config = weights.parent / CONFIG
    if not config.exists():
        return weights, {}
    try:
        found = json.loads(ending(config).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArgumentError(f"{config}: is no JSON ({error!s:.100}); save the adapter again") from None
    if not isinstance(found, dict) or not str(found.get("peft_type", "LORA")).startswith(("LORA", "ASF_LORA")):
        kind = found.get("peft_type") if isinstance(found, dict) else type(found).__name__
        raise ArgumentError(f"{config}: LoRA's config wanted, received {kind!r}")
    _check(config, found)
    return weights, found


def _check(path: Path, config: dict[str, Any]) -> None:
    # The fields that are read here and in `answers`; null is as good as none.
    for name, check in {"lora_alpha": number, "lora_dropout": drop_rate, "eta": positive}.items():
        if config.get(name) is not None:
            check(f"{path}: {name}", config[name])
    for name in ("use_rslora", "use_dora"):
        if not isinstance(config.get(name), bool | None):
            raise ArgumentError(f"{path}: {name} must be true or false, received {shown(config[name])}")
    for name in ("variant", "init_lora_weights"):
        if not isinstance(config.get(name), str | bool | None):
            raise ArgumentError(f"{path}: {name} must be a name, received {shown(config[name])}")
    for name, what, check in (("alpha_pattern", "α", number), ("rank_pattern", "r", count)):
        patterns = config.get(name) or {}
        if not isinstance(patterns, dict):
            raise ArgumentError(f"{path}: {name} must be {what} by layer, received {shown(patterns)}")
        for key, value in patterns.items():
            check(f"{path}: {name}[{key!r}]", value)
            try:
                re.compile(key)
            except re.error as error:
                told = f"{path}: {name} must be of regular expressions, received {key!r} ({error})"
                raise ArgumentError(told) from None
    modules = config.get("target_modules")
    pattern = modules if isinstance(modules, str) else ""
    for name in ("target_parameters", "modules_to_save", *([] if pattern else ["target_modules"])):
        listed = config.get(name) or []
        if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
            raise ArgumentError(f"{path}: {name} must be names, received {shown(listed)}")
    try:
        re.compile(pattern)
    except re.error as error:
        raise ArgumentError(f"{path}: target_modules must be names, received {shown(modules)} ({error})") from None
    if config.get("r") is not None:
        count(f"{path}: r", config["r"])
    if config.get("eta") is not None:
        choice(f"{path}: variant", config.get("variant", "allora"), VARIANTS)
        choice(f"{path}: adaptor", config.get("adaptor", "inverse_sqrt"), ADAPTORS)


def _alpha(key: str, tensor: Any) -> float:
    if tensor.numel() != 1:
        raise ArgumentError(f"{key} must be one number, received shape {tuple(tensor.shape)}; save the adapter again")
    return number(key, tensor.item())


def _tensors(weights: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    # What is read, and the names of what is not.
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(ending(weights)), framework="pt") as opened:
            keys = opened.keys()
            read = {key: opened.get_tensor(key) for key in keys if _is_read(key)}
            return read, tuple(key.removeprefix(_PREFIX) for key in keys if key not in read)
    except (OSError, SafetensorError) as error:
        raise ArgumentError(
            f"{weights}: cannot be read as safetensors ({error!s:.80}); save or fetch it again"
        ) from None


def _is_read(key: str) -> bool:
    ours = _KEY.match(key) and not key.endswith(".bias")
    return bool(ours) or "lora_magnitude_vector" in key or key.endswith((".alpha", "dora_scale"))


def _whole(part: dict[str, Any]) -> bool:
    a, b = part.get("a"), part.get("b")
    chain = a is not None and b is not None and a.ndim == b.ndim == 2 and a.shape[0] == b.shape[1]
    return chain and a.numel() > 0 and b.numel() > 0


def _pair(
    name: str,
    part: dict[str, Any],
    config: dict[str, Any],
    own_alpha: float | None,
    stacked: dict[str, tuple[str, int]],
) -> SavedPair:
    import torch

    from allora_analysis.lora.autograd import norms_of_rows
    from allora_analysis.lora.pairs import as_matrices

    a, b, layer = part["a"].double(), part["b"].double(), part["layer"].removeprefix(_PREFIX)
    r = a.shape[0]
    key, rank = stacked.get(name, (layer, r))
    scaling = _scaling(key, rank, config, own_alpha)
    spread = None
    if torch.isfinite(a).all() and torch.isfinite(b).all():
        rows = abs(scaling) * norms_of_rows(*as_matrices(a, b, r // rank))
        spread = (float(rows.min()), float(rows.median()), float(rows.max()))
        if not math.isfinite(spread[2]):
            raise ArgumentError(f"{layer}: A and B are too large to square s·BA; go back to a checkpoint before")
    zero = ("both" if not b.any() else "a") if not a.any() else "" if b.any() else "b"
    wanted = None if name in stacked else _of_pattern("rank_pattern", "r", layer, config)
    stated = None if wanted == r else wanted
    name = name.removeprefix(_PREFIX)
    return SavedPair(name, b.shape[0], a.shape[1], rank, scaling, spread, zero, experts=r // rank, stated=stated)


def _stacked(whole: dict[str, dict[str, Any]], config: dict[str, Any]) -> dict[str, tuple[str, int]]:
    # By pair, the one of PEFT's `target_parameters` that it is of, and its rank. A layer's wrappers, one a parameter,
    # lie in each other in an order that the file does not say; all hold as many experts: rows of A / rank.
    layers: dict[tuple[str, str], list[str]] = {}
    for name, part in whole.items():
        layer = re.sub(r"(\.base_layer)+$", "", part["layer"].removeprefix(_PREFIX))
        layers.setdefault((layer, name.removeprefix(part["layer"])), []).append(name)
    found = {}
    for (layer, _), names in layers.items():
        if keys := _parameters(layer, len(names), config):
            rows = [len(whole[name]["a"]) for name in names]
            found |= dict(zip(names, _assigned(layer, rows, keys, config), strict=True))
    return found


def _assigned(layer: str, rows: list[int], keys: list[str], config: dict[str, Any]) -> tuple[tuple[str, int], ...]:
    # A key and a rank for each number of rows; refuses where no way fits, or several that differ in rank or α.
    ways = {}
    alike: dict[tuple[Any, Any], list[str]] = {}
    for key in keys:
        means = _of_pattern("rank_pattern", "r", key, config), _of_pattern("alpha_pattern", "lora_alpha", key, config)
        alike.setdefault(means, []).append(key)
    some = [(means, key) for means, same in alike.items() for key in same[: len(rows)]]
    for way in permutations(some, len(rows)):
        ranks = [rank or n for ((rank, _), _), n in zip(way, rows, strict=True)]
        experts = rows[0] // ranks[0]
        if experts and rows == [experts * rank for rank in ranks]:
            ways[tuple(means for means, _ in way)] = tuple((key, r) for (_, key), r in zip(way, ranks, strict=True))
    if len(ways) != 1:
        raise ArgumentError(
            f"{layer}: A has {' and '.join(map(str, rows))} rows, which the ranks of {', '.join(keys)} fit in "
            f"{'several ways' if ways else 'no way'}; save the adapter again, with one rank and one alpha for all of "
            "target_parameters"
        )
    return next(iter(ways.values()))


def _parameters(layer: str, pairs: int, config: dict[str, Any]) -> list[str]:
    # Those of PEFT's `target_parameters` that may be a layer's, without names that fit every layer where others do.
    modules = config.get("target_modules") or ()
    plain = isinstance(modules, list) and f".{layer}".endswith(tuple(f".{module}" for module in modules))
    if plain or (isinstance(modules, str) and re.fullmatch(modules, layer)):
        return []
    found: dict[str, bool] = {}
    for target in config.get("target_parameters") or ():
        key = f"{layer}.{target.rpartition('.')[2]}"
        if f".{key}".endswith(f".{target}"):
            found[key] = found.get(key, False) or "." in target
    named = [key for key, whole in found.items() if whole]
    return named if len(named) == pairs else list(found)


def _of_pattern(patterns: str, default: str, name: str, config: dict[str, Any]) -> Any:
    # PEFT's patterns: the first key that matches the end of the layer's name.
    found = (config.get(patterns) or {}).items()
    return next((value for key, value in found if re.match(rf"(.*\.)?({key})$", name)), config.get(default))


def _scaling(name: str, r: int, config: dict[str, Any], own_alpha: float | None) -> float:
    alpha = _of_pattern("alpha_pattern", "lora_alpha", name, config) if own_alpha is None else own_alpha
    if alpha is None:
        return 1.0
    return float(alpha) / alpha_of_one(r, config.get("use_rslora"))


@dataclass(frozen=True)
class Strength:
    """What was found, at c = 1: the adapter as it is.

    Attributes:
        change: ‖f − f₀‖/‖f₀‖ of the output.
        at_random: the mean of that over adapters at random of the same ranks and row norms.
        radius: the smallest |c|, real or complex, at which the network divides by 0: its power series in c ends there;
            not looked for (infinite) where BA changes nothing.
        adapted: linear maps of the blocks with an adapter.
        left_out: pairs on other layers (a head's, an embedding's).
        tokens: of the sentence.
    """

    change: float
    at_random: float
    radius: float
    adapted: int
    left_out: int
    tokens: int

    def words(self) -> str:
        """What was found, in a line."""
        if not self.at_random:
            return f"nothing: BA is too small to change the output on {self.tokens} tokens in double precision"
        ratio = self.change / self.at_random
        word = "more than at random" if ratio > 2 else "about as at random" if ratio > 0.5 else "less than at random"
        past = "beyond which" if self.radius >= 1 else "below the adapter's own 1, so that at its full strength"
        return (
            f"{word}: on {self.tokens} tokens of one sentence it changes the output by {self.change:.2g} of its "
            f"length, {ratio:.2g} times as much as {DRAWS} adapters at random of its ranks and row norms; with c·BA "
            f"for BA the network is a power series in c up to c = {self.radius:.2g}, {past} no expansion in small "
            "adapters holds" + (f"; {self.left_out} pairs on other layers are left out" if self.left_out else "")
        )


def strength(
    source: str, adapters: Adapters, sentence: str = SENTENCE, seed: int = 0, beside: Sequence[str] = ()
) -> Strength:
    """Load the base model of a BERT, Llama or Qwen2 and run the sentence's first tokens through it; `adapters` are A
    and s·B by the layer's name, `seed` is of those at random, `beside` names what else the adapter's file holds.

    Refuses a model of another kind, one that is not the adapter's, one of which the file holds more, and what
    `finetune.models.load` refuses.
    """
    from allora_analysis.finetune import models

    pretrained = models.load(source, 2, attention="eager")
    _check_beside(pretrained.model, beside)
    x, theirs = _states(pretrained, sentence)
    model = transformer_of(pretrained.model, adapters)
    plain = forward(model, x, 0.0).output
    if np.linalg.norm(plain - theirs) > AGREES * np.linalg.norm(theirs):
        raise ArgumentError(f"--model {source!r}: has more than BERT's, Llama's or Qwen2's blocks; it cannot be read")
    adapted = sum(bool(one.b.any() and one.a.any()) for block in model.blocks for one in block.values())
    if not adapted:
        raise ArgumentError(
            f"--model {source!r}: no layer of it has one of the adapter's names ({next(iter(adapters))}, …), or all of "
            "BA is 0; give the base model that it was trained on"
        )
    generator = np.random.default_rng(seed)

    def change(one: Transformer) -> float:
        return float(np.linalg.norm(forward(one, x, 1.0).output - plain) / np.linalg.norm(plain))

    drawn = [change(turned_at_random(model, generator)) for _ in range(DRAWS)]
    radius = math.inf
    if any(drawn):
        radius = series.radius(model, x, series.radius_by_quadratics(model, x), 0.15, (16, 32))
    left_out = sum(bool(a.any() and b.any()) for a, b in adapters.values()) - adapted
    return Strength(change(model), float(np.mean(drawn)), radius, adapted, left_out, x.shape[1])


def _check_beside(model: Any, beside: Sequence[str]) -> None:
    # A head and a pooler may be there: they are behind the last block.
    prefix, behind = model.base_model_prefix, ("pooler.", f"{model.base_model_prefix}.pooler.")
    inside = {prefix, *dict(model.base_model.named_children())}
    if found := [name for name in beside if name.partition(".")[0] in inside and not name.startswith(behind)]:
        raise ArgumentError(
            f"--model: the adapter's file holds more of the model than A and B ({found[0]}), so that its "
            "change is not s·BA alone; leave --model out, or save the adapter without that"
        )


def _states(pretrained: Any, sentence: str) -> tuple[np.ndarray, np.ndarray]:
    # h₀ and transformers' own output.
    import torch

    row = pretrained.tokenizer(sentence)["input_ids"][:TOKENS]
    with torch.no_grad():
        states = pretrained.model.eval()(torch.tensor([row]), output_hidden_states=True).hidden_states
    return states[0].double().numpy(), states[-1].double().numpy()
