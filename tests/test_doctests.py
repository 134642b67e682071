"""The examples in the docstrings give what they show, and the main functions of each part have one."""

import ast
import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "allora_analysis"
SHOWN = (
    "adaptors.inverse_sqrt",
    "adaptors.inverse",
    "adaptors.exponential",
    "adaptors.constant",
    "tikhonov.expected_loss",
    "tikhonov.dropout_solution",
    "tikhonov.ridge_solution",
    "tikhonov.nearest_ridge",
    "tikhonov.bottleneck_solution",
    "deviation.loss_moments",
    "deviation.bound",
    "deviation.gradient_std",
    "deviation.mean_absolute_deviation",
    "dropout_sgd.trajectory",
    "hessian.product_spectrum",
    "hessian.factor_spectrum",
    "hessian.inertia",
    "hessian.is_stationary",
    "hessian.escape_time",
    "ripple.growth_exponent",
    "ripple.worst_case",
    "adaptive.row_factor",
    "adaptive.asf",
    "escape.trajectory",
    "escape.time_to_reach",
    "statistics.holm",
    "statistics.required_n",
)


def examples() -> dict[str, doctest.DocTest]:
    """Every docstring of the package with an example, read from the source: the typing hook wraps functions."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if ">>> " not in source:
            continue
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ">>> " in (
                ast.get_docstring(node) or ""
            ):
                name = f"{module}.{getattr(node, 'name', '')}".rstrip(".")
                line = getattr(node, "lineno", 1)
                found[name] = doctest.DocTestParser().get_doctest(ast.get_docstring(node), {}, name, str(path), line)
    return found


EXAMPLES = examples()


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_gives_what_it_shows(name):
    told: list[str] = []
    outcome = doctest.DocTestRunner(verbose=False).run(EXAMPLES[name], out=told.append)
    assert outcome.attempted
    assert not outcome.failed, "".join(told)


def test_the_main_functions_have_an_example():
    lacking = []
    for name in SHOWN:
        part, _, function = name.partition(".")
        item = getattr(importlib.import_module(f"allora_analysis.{part}"), function)
        if f"{item.__module__}.{item.__qualname__}" not in EXAMPLES:
            lacking.append(name)
    assert not lacking


def test_a_wrong_answer_is_caught():
    wrong = EXAMPLES["allora_analysis.adaptors.inverse_sqrt"]
    planted = doctest.DocTestParser().get_doctest(wrong.docstring.replace("0.5]", "0.6]"), {}, "planted", None, 0)
    assert doctest.DocTestRunner(verbose=False).run(planted, out=lambda text: None).failed == 1
