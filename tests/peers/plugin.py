"""A pytest plugin for PEFT's own tests: `LoraConfig` is ours, only what tests LoRA runs, and known failures must fail.

`pytest -p peers.plugin --peer allora …`; `--peer plain` leaves PEFT as it is, which is the control.
"""

import importlib.util
import inspect
import re
import sys
import tomllib
import types
from dataclasses import fields
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path

import peft
import pytest
import torch

PLAIN = "plain"
ETA = 2.0
LORA_CONFIG = peft.LoraConfig
LISTS = Path(__file__).parent / "lists.toml"


def pytest_addoption(parser):
    parser.addoption("--peer", default=PLAIN, help="the variant that stands in LoRA's place, or 'plain'")
    parser.addoption("--lists", type=Path, default=LISTS, help="what fails, and why")
    parser.addoption("--every", type=int, default=1, metavar="N", help="of the tests that are not listed, every Nth")


def pytest_configure(config):
    if config.option.peer != PLAIN:
        peft.LoraConfig = stand_in(config.option.peer)


def stand_in(variant: str) -> type:
    """A `LoraConfig` that makes an `ALLoRAConfig`, without what the variant refuses by its definition."""
    from allora_analysis.lora.peft import ALLoRAConfig

    names = [field.name for field in fields(LORA_CONFIG) if field.init]

    class Meta(type(ALLoRAConfig)):
        def __instancecheck__(cls, instance):
            return isinstance(instance, LORA_CONFIG)

    class LoraConfig(ALLoRAConfig, metaclass=Meta):
        def __init__(self, *args, **given):
            given = dict(zip(names, args, strict=False)) | given
            eta = ETA
            if variant == "lora_x_eta":  # LoRA at scaling η
                eta = given.pop("lora_alpha", 8) / given.get("r", 8)
            if variant == "asf_lora":
                given.pop("lora_alpha", None)
            if variant == "allora_0":
                given.pop("lora_dropout", None)
            super().__init__(**{"eta": eta, "variant": variant} | given)

    LoraConfig.__module__, LoraConfig.__qualname__ = "peft", "LoraConfig"  # where pickle finds it
    return LoraConfig


def pytest_sessionstart(session):
    """PEFT's helpers, offline. diffusers, which two files import for a test each, is a module that skips the test."""
    if importlib.util.find_spec("diffusers") is None:
        stub = types.ModuleType("diffusers")
        stub.__spec__, stub.__version__ = ModuleSpec("diffusers", None), "0.0"
        stub.StableDiffusionPipeline = type("StableDiffusionPipeline", (), {"from_pretrained": _skip})
        sys.modules["diffusers"] = stub
    sys.path.insert(0, str(session.config.rootpath))
    helpers = importlib.import_module("tests.testing_utils")
    helpers._HUB_MODEL_ACCESSES = _AllSeen()


def _skip(*args, **kwargs):
    pytest.skip("needs diffusers")


class _AllSeen(dict):
    """PEFT's tests go online for an id that they have not seen."""

    def __contains__(self, name):
        return True

    def __missing__(self, name):
        return 1


def is_of_lora(item: pytest.Item) -> bool:
    """Its parameters name LoRA's config and no other method's, or its class or function does."""
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    configs = [one for one in parameters if isinstance(one, type) and issubclass(one, peft.PeftConfig)]
    if configs:
        return peft.LoraConfig in configs
    return names_lora(item.cls or item.function)


@cache
def names_lora(tests: type | types.FunctionType) -> bool:
    """A class of tests, or one test."""
    return re.search(r"\bLoraConfig\b", inspect.getsource(tests)) is not None


def pytest_collection_modifyitems(config, items):
    kept = [item for item in items if is_of_lora(item)]
    in_list = set()
    for entry in listed(config.option.lists, config.option.peer):
        for pattern in entry["tests"]:
            named = [item for item in kept if compiled(pattern).fullmatch(item.nodeid.removeprefix("tests/"))]
            if not named and any(item.path.name == pattern.partition("::")[0] for item in kept):
                raise pytest.UsageError(f"{config.option.lists.name} lists {pattern!r}, which names no test")
            in_list.update(named)
            for item in named:
                mark = pytest.mark.xfail(reason=entry["reason"], strict=entry.get("strict", True))
                item.add_marker(mark, append=False)  # pytest obeys the first, which may be PEFT's own
    others = [item for item in kept if item not in in_list][:: config.option.every]
    run = in_list.union(others)
    config.hook.pytest_deselected(items=[item for item in items if item not in run])
    items[:] = [item for item in kept if item in run]


def listed(lists: Path, peer: str) -> list[dict]:
    """The entries for this peer: those of plain PEFT are everyone's, those without peers all variants'."""
    entries = tomllib.loads(lists.read_text(encoding="utf-8"))["difference"]
    return [entry for entry in entries if {peer, PLAIN} & set(entry.get("peers", [] if peer == PLAIN else [peer]))]


@cache
def compiled(pattern: str) -> re.Pattern[str]:
    """A pattern, in which * is anything."""
    return re.compile(re.escape(pattern).replace(r"\*", ".*"))


def pytest_runtest_setup(item):
    torch.manual_seed(0)
