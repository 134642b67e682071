"""What keeps the house easy to see: sizes, names, imports, lazy loading, the typing hook."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
import textwrap
import typing
from pathlib import Path

import jaxtyping
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "allora_analysis").rglob("*.py"))
FILES = PACKAGE + sorted((ROOT / "benchmarks").rglob("*.py")) + sorted((ROOT / "tests").rglob("*.py"))
PAGES = sorted(path for folder in ("paper_figures", "docs", "experiments") for path in (ROOT / folder).rglob("*.py"))
SHORT = PACKAGE + PAGES
NOTEBOOK = ("IPython", "nbclient", "nbformat", "ipywidgets")
HEAVY = ("torch", "transformers", "peft", "submitit", "matplotlib", "sklearn", "scipy.stats", "curvlinops", *NOTEBOOK)


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


SAYS = re.compile(r"[^ -~]|[\d(\[<,`]|\b(each|every|whether|if|or|by|per)\b|(?<!')\b[b-z]\b", re.IGNORECASE)


def says(text: str) -> bool:
    """More than the name of what is returned: a shape, a symbol, a condition, or more than five words."""
    words = text.split()
    return len(words) > 5 or SAYS.search(" ".join(words)) is not None


def result(told: str) -> str:
    """What a docstring says of the result: its own section, or where it has none the first paragraph."""
    section = re.search(r"(?:Returns|Yields):\n((?:    .*\n?)+)", told)
    return section[1] if section else told.partition("\n\n")[0]


@pytest.mark.parametrize("path", SHORT, ids=relative)
def test_files_and_functions_are_short_and_no_section_is_empty(path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 450  # a file holds one object, whole
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= 40, f"{node.name} has {lines} lines"
            told = ast.get_docstring(node) or ""
            assert "Returns:" not in told or says(result(told)), f"{node.name} returns{result(told)}"


def exported() -> list[str]:
    """What the packages' `__all__` export: functions, by their full name."""
    names = []
    for path in PACKAGE:
        source = path.read_text(encoding="utf-8")
        if path.name == "__init__.py" and "__all__" in source:
            package = ".".join(path.parent.relative_to(ROOT).parts)
            listed = next(
                n for n in ast.parse(source).body if isinstance(n, ast.Assign) and n.targets[0].id == "__all__"
            )
            names += [f"{package}:{name}" for name in ast.literal_eval(listed.value)]
    return names


@pytest.mark.parametrize("name", exported())
def test_what_a_package_exports_says_its_arguments_its_result_and_its_errors(name):
    package, _, item = name.partition(":")
    thing = getattr(importlib.import_module(package), item)
    methods = (
        [one for key, one in vars(thing).items() if not key.startswith("_")] if inspect.isclass(thing) else [thing]
    )
    for function in filter(inspect.isfunction, methods):
        told = inspect.getdoc(function)
        if inspect.isclass(thing) and "\n" not in told:
            continue  # a line says a method that has no more to say
        assert not set(inspect.signature(function).parameters) - {"self"} or "Args:" in told or "rguments" in told
        assert inspect.signature(function).return_annotation in (None, "None") or says(result(told))
        raised = {
            node.exc.func.id
            for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function))))
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name)
        }
        assert not [error for error in raised if f"    {error}:" not in told], raised


def test_no_module_has_an_empty_name():
    assert not [path for path in PACKAGE if path.stem in ("utils", "util", "helpers", "common", "misc")]


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_no_pickle(path):
    if path == Path(__file__):
        return  # it names what it forbids
    # Reading a pickle runs what its writer put there. Submitit's own files between a grid and its jobs are submitit's.
    assert not re.search(
        r"^\s*(import|from) (pickle|dill|joblib)\b|allow_pickle=True", path.read_text(encoding="utf-8"), re.MULTILINE
    )


@pytest.mark.parametrize(
    "path", [*sorted((ROOT / "tests" / "brute_force").glob("*.py")), ROOT / "tests/stat_assert.py"]
)
def test_references_import_nothing_from_what_they_judge(path):
    assert "allora_analysis" not in re.sub(r'""".*?"""', "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


STUDIES = ("tikhonov", "deviation", "dropout_sgd", "hessian", "ripple", "gradient_std", "escape", "width", "finetune")
LIGHT = [
    "allora_analysis",
    "allora_analysis.__main__",
    *(f"allora_analysis.{name}" for name in STUDIES),
    *(f"allora_analysis.{name}.study" for name in STUDIES),
    "allora_analysis.adaptors",
    "allora_analysis.adaptive",
    "allora_analysis.lora",
    "allora_analysis.finetune.run",
    "allora_analysis.zero_initialisation.run",
    "allora_analysis.grid",
    "allora_analysis.grid.command",
    "allora_analysis.statistics",
    "allora_analysis.records",
    "allora_analysis.claims.ledger",
    "paper_figures.__main__",
    "notebooks.__main__",
]


def first_to_load_something_heavy(modules: list[str]) -> str:
    """Imports the modules one after the other in one new process; names the first that loads what is heavy."""
    code = f"""
import importlib, sys
for name in {modules!r}:
    importlib.import_module(name)
    if heavy := [one for one in {HEAVY!r} if one in sys.modules]:
        sys.exit(f"{{name}} loads {{heavy}}")
"""
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300).stderr


def test_nothing_heavy_is_imported_until_it_is_needed():
    assert first_to_load_something_heavy(LIGHT) == ""
    planted = [*LIGHT, "allora_analysis.lora.functional"]
    assert first_to_load_something_heavy(planted).startswith("allora_analysis.lora.functional loads ['torch'")


def test_import_contracts():
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def typed_modules() -> list[str]:
    """The modules that import jaxtyping: each must have its shapes checked."""
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in PACKAGE
        if "jaxtyping" in path.read_text(encoding="utf-8")
    ]
    return [name.removesuffix(".__init__") for name in names]


def shaped(annotation) -> bool:
    """A jaxtyping annotation, also inside a tuple or a union."""
    return hasattr(annotation, "dim_str") or any(shaped(part) for part in typing.get_args(annotation))


@pytest.mark.parametrize("name", typed_modules())
def test_a_wrong_shape_is_rejected_in_every_typed_module(name, request):
    """Names under TYPE_CHECKING would not resolve here, and the hook would then check nothing, in silence."""
    module = importlib.import_module(name)
    checked = 0
    for owner in [module, *(item for item in vars(module).values() if inspect.isclass(item))]:
        if inspect.isclass(owner) and owner.__module__ != name:
            continue
        for item in vars(owner).values():
            function = getattr(item, "__wrapped__", item) if hasattr(item, "cache_info") else item
            if not inspect.isfunction(function) or function.__module__ != name:
                continue
            hints = typing.get_type_hints(function)
            arrays = [key for key, hint in hints.items() if shaped(hint)]
            checked += bool(arrays)
            inputs = [key for key in arrays if key != "return"]
            if not inputs or request.config.option.untyped:
                continue
            parameters = inspect.signature(function).parameters
            wrong = {key: np.zeros((1,) * 9, dtype=complex) for key in parameters}
            # A dataclass's __init__ and a function alike: nine complex dimensions fit no shape of ours.
            with pytest.raises(jaxtyping.TypeCheckError):
                function(**{key: value for key, value in wrong.items() if parameters[key].kind not in (2, 4)})
    assert checked, "imports jaxtyping, annotates nothing"


def test_every_claims_test_exists():
    from allora_analysis.claims.ledger import all_claims

    named = {word for claim in all_claims() for word in re.findall(r"tests/\w+\.py", claim.test)}
    assert named
    assert not [path for path in named if not (ROOT / path).exists()]


def test_every_docstring_names_a_test_that_exists():
    named = {word for path in PACKAGE for word in re.findall(r"tests/[\w/]+\.py", path.read_text(encoding="utf-8"))}
    assert not [path for path in named if not (ROOT / path).exists()]
