"""Hostile arguments to every public function and command line: `python -m tests.hardening.fuzz`.

A function's usual arguments stand in `USUAL` under their names, which mean the same everywhere in the toolkit, or in
`CHOICES` where several are usual. A call replaces one or two of them, or gives an axis that they share the length 1.
What may come of it: finite numbers (but in the fields of `INFINITE` and `UNDEFINED`), or one line of refusal
(`ArgumentError`), within ten seconds and without a warning. The same numbers in another dress (a list, another dtype,
a strided view, a tensor) must give the same answer, which is the second method that every function has.
"""

import collections
import contextlib
import dataclasses
import importlib
import inspect
import io
import math
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import TypeCheckError

from allora_analysis import adaptors, ripple, width
from allora_analysis.gradient_std import summary
from allora_analysis.validation import ArgumentError
from tests.hardening import command_line, progress, record

COMMAND = "python -m tests.hardening.fuzz"
CALLS, LINES, SECONDS = 100_000, 2_000, 10
PACKAGES = (
    "tikhonov", "deviation", "dropout_sgd", "hessian", "ripple", "adaptors", "escape", "adaptive", "statistics",
    "width", "gradient_std",
)  # fmt: skip
MORE = {"gradient_std": [("changes", summary.changes)]}
STUDIES = ("tikhonov", "deviation", "dropout_sgd", "hessian", "ripple", "escape")

X = np.array([[1.0, 0.5], [-0.3, 2.0], [0.7, -1.1]])
SQUARE = np.array([[0.9, -0.4], [0.2, 1.3]])
USUAL: dict[str, Any] = {
    "x": X, "y": X[:, ::-1] + 0.1, "w": SQUARE, "w_true": SQUARE, "a": SQUARE[:1], "b": SQUARE[:, :1], "g": SQUARE - 1,
    "s": X.T @ X, "fit": X, "fitted": X, "target": SQUARE, "delta": SQUARE, "cross": SQUARE, "gradient": 0.7,
    "a_draw": SQUARE[:1], "direction": (SQUARE[:1], SQUARE[:, :1]),
    "d": np.array([1.0, 2.0]), "f": np.array([0.3, -2.0]),
    "t": np.array([0.0, 1.5]), "level": 0.8, "start": 0.6, "factor": np.array([1.0, 2.0]), "jacobian": SQUARE,
    "samples": np.array([1.0, 2.0, 4.0]), "values": np.array([1.0, 2.0, 4.0]),
    "differences": np.array([0.4, 0.1, 0.3, -0.2]), "first": np.array([0.4, 0.1, 0.3]),
    "second": np.array([0.2, 0.3, 0.1]), "p_values": np.array([0.01, 0.5]), "clusters": (0, 0, 1, 1),
    "weight_norms": np.array([1.0, 2.0]), "adapter_norms": np.array([0.5, 1.0]), "layers": [(SQUARE, SQUARE, SQUARE)],
    "widths": (3, 4, 3), "mean": 0.1, "stderr": 0.2, "expected": 0.0, "shape": (2, 2, 1),
    "keep_prob": 0.7, "penalty": 0.5, "rank": 1, "n": 5, "draws": 5, "starts": 2, "steps": 3,
    "learning_rate": 0.01, "eta": 2.0, "width": 4, "depth": 3, "n_outputs": 2, "n_samples": 6, "n_features": 2,
    "w_std": 0.5, "a_std": 0.4, "b_std": 0.3, "replicas": 3, "gamma": 0.4, "n2": 4, "epsilon": 0.01,
    "size": 2.0, "sigma": 1.0, "confidence": 0.9, "accuracy": 0.8, "standard_deviation": 1.0, "effect": 0.5,
    "resamples": 20, "statistic": np.mean, "rate": 1.5, "tolerance": 1e-9, "grain": 0.0, "power": 0.8, "noise": 0.1,
    "seed": 1, "seeds": 2, "n_inputs": 3, "teacher_rank": 1, "share": 0.1, "coverage": 0.9, "eps": 1e-8, "masks": 4,
    "norm": 2.0, "norms": np.array([0.1, 0.2]), "gradient_norm": 2.0, "other_norm": 1.0, "mixing": np.array([[0.5]]),
    "means": np.array([[1.0, 0.4], [0.8, 0.6], [1.2, 0.1]]), "within": np.array([0.5, 0.4, 0.6]),
    "totals": np.array([1.0, 2.0, 1.5]), "stderrs": np.array([0.1, 0.2, 0.1]),
    "series": np.array([[1.0, 2.0], [1.5, 1.0], [1.0, 0.5]]), "growth": ripple.Growth(0.0, 1.0),
    "weight": SQUARE, "generator": None,  # drawn anew for each call
}  # fmt: skip
# Where several are usual: under a name, or under a package's name for it.
CHOICES: dict[str, tuple[Any, ...]] = {
    "placement": ("input", "output"), "architecture": ("linear", "relu", "prelayernorm"),
    "adaptor": tuple(adaptors.ADAPTORS),
    "ripple.method": ("matrices", "isotropy", "chi_square"), "width.method": tuple(width.METHODS),
    "test": ("sign flips", "t"), "damped": (False, True), "shared_mask": (False, True), "closed": (False, True),
    "orthonormal": (False, True), "batch_size": (None, 1, 3), "repeats": (1, 2), "risk_covariance": (None, X.T @ X),
    "g_tolerance": (None, 0.1), "input_square": (None, 2.0), "max_grad_norm": (1.0, None),
}  # fmt: skip
AXES = {
    "x": "N n2", "y": "N n1", "w": "n2 n1", "w_true": "n2 n1", "delta": "n2 n1", "fit": "N n1", "fitted": "N n1",
    "a": "r n2", "a_draw": "r n2", "b": "n1 r", "g": "n1 n2", "s": "n2 n2", "target": "n1 n2", "cross": "n1 n2",
    "d": "n1", "factor": "n1", "jacobian": "n1 n1", "risk_covariance": "n2 n2", "weight": "n1 n2",
}  # fmt: skip
OWN = {
    "statistics": {"level": 0.05, "differences": np.array([0.4, 0.1, 0.3, -0.2])},
    "ripple.log_output_growth": {"x": np.array([1.0, 0.5])},
    "adaptive.ascent_frequency": {"samples": 3},
    "hessian.start_pair": {"start": "b_zero", "gradient": SQUARE},
    "hessian.start_report": {"start": "b_zero"},
    "escape.linear_teacher": {"samples": 4},
    "ripple.fair_scales": {"b_std": None},
    "gradient_std.changes": {"first": 0},
    "statistics.judge_family": {
        "differences": {"one": np.array([0.4, 0.1, 0.3]), "two": np.array([0.1, -0.2, 0.3])},
        "margins": {"one": 0.3},
    },
    "statistics.decide": {"sentences": {"one": (np.array([0.4, 0.1, 0.3]),), "two": (np.array([0.1, -0.2, 0.3]),)}},
    "statistics.two_level": {"differences": np.array([[1.0, 0.0, 0.0], [0.0, -1.0, 1.0]])},
    "statistics.paired_family": {"differences": {"one": np.array([0.4, 0.1, 0.3]), "two": np.array([0.1, -0.2, 0.3])}},
}
ELSEWHERE = ("width.row_norms",)  # of many layers at once
OURS = (bool,)  # what is neither number nor word: Python's own error
RNGS = ("generator",)
TIMES = ("time", "fast_time", "measured_time", "equal_time_rate")
# The fields of an answer ("" of a number) that may be ±∞, and those that may be no number: there is no such ratio.
INFINITE: dict[str, tuple[str, ...]] = {
    "tikhonov.nearest_ridge": ("penalty",),
    "ripple.worst_case": ("log_amgm_bound", "log_c", "mean_ratio"),
    "ripple.log_output_growth": ("",),
    "escape.constant_gradient": ("target",),
    "escape.tradeoff": TIMES,
    "hessian.marchenko_pastur_condition": ("",),
    "hessian.escape_time": ("",),
    "hessian.block_conditioning": ("block", "gram", "adapter"),
    "dropout_sgd.stability_limits": ("mean", "mean_square"),
    "width.taper": ("eta_to_taper",),
    "statistics.paired_family": ("interval",),
    "statistics.ratio_of_means": ("value", "low", "high"),
    "statistics.one_sided": ("interval",),
    "statistics.judge_family": ("interval",),
    "ripple.simulate": ("log_growth",),
}
UNDEFINED = {"ripple.simulate": ("cosine_square",), "statistics.ratio_of_means": ("value",)}
NO_VALUES = (
    None, "", "abc", b"x", True, float("nan"), math.inf, -math.inf, 0, -1, 0.0, -0.0, 1, 2, 7, 0.5, 1e-320, 1e-300,
    1e-12, 1e12, 1e300, -1e300, 1.7e308, 10**9, 10**12, 10**19, 10**400, 1j, (), [], [[]], [[1.0], [1.0, 2.0]], {},
    object(), "0.5", ["a", "b"], np.float32(0.3), np.int8(3), np.array(0.5), np.zeros((0, 2)), np.zeros((2, 0)),
    np.ones((2, 2, 2)), np.array([[np.nan, 1.0], [1.0, 1.0]]), np.ones((2, 2), complex), np.array(["a"]),
    np.array([object()]), np.broadcast_to(1.0, (10**6, 10**6)), np.zeros((2, 2)), np.full((2, 2), 5e-324),
    [[10**400]], np.full((2, 2), np.longdouble(10) ** 400),
)  # fmt: skip
SCALES = (0.0, -1.0, 5e-324, 1e-310, 1e-300, 1e-160, 1e-9, 1e9, 1e160, 1e300)


def functions() -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Every public function whose required arguments all have a usual value, with these and its options' values."""
    found = {}
    for package in PACKAGES:
        module = importlib.import_module(f"allora_analysis.{package}")
        chosen = {key.removeprefix(f"{package}."): several[0] for key, several in CHOICES.items()}
        for name, function in [(name, getattr(module, name)) for name in module.__all__] + MORE.get(package, []):
            usual = USUAL | chosen | OWN.get(package, {}) | OWN.get(f"{package}.{name}", {})
            if inspect.isfunction(function) and f"{package}.{name}" not in ELSEWHERE:
                parameters = inspect.signature(function).parameters.values()
                if all(p.name in usual or p.default is not p.empty for p in parameters):
                    found[f"{package}.{name}"] = (
                        function,
                        {p.name: usual[p.name] for p in parameters if p.name in usual},
                    )
    return found


def with_one(axis: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments with the length 1 for this axis."""

    def cut(name: str, value: Any) -> Any:
        axes = AXES.get(name, "").split()
        if not isinstance(value, np.ndarray) or value.ndim != len(axes):
            return value
        return value[tuple(slice(1 if one == axis else None) for one in axes)]

    return {name: cut(name, value) for name, value in arguments.items()}


def dressed(value: np.ndarray, rng: np.random.Generator) -> Any:
    """The same numbers in another dress."""
    wide = np.zeros(tuple(2 * n for n in value.shape))
    wide[tuple(slice(None, None, 2) for _ in value.shape)] = value
    frozen = value.copy()
    frozen.setflags(write=False)
    dresses = (
        value.tolist(), np.asfortranarray(value), wide[tuple(slice(None, None, 2) for _ in value.shape)], frozen,
        torch.tensor(value), value.astype(np.longdouble), value.astype(">f8"), value[::-1][::-1], np.ma.array(value),
    )  # fmt: skip
    return dresses[rng.integers(len(dresses))]


def replaced(value: Any, rng: np.random.Generator) -> Any:
    """A hostile value in an argument's place."""
    if isinstance(value, np.ndarray) and rng.random() < 0.8:
        kind = rng.integers(6)
        if kind == 0:
            return value * SCALES[rng.integers(len(SCALES))]
        if kind == 1:
            return value * rng.choice(SCALES, value.shape)
        if kind == 2:
            return value[:-1]
        if kind == 3:
            return np.where(rng.random(value.shape) < 0.3, rng.choice([np.nan, np.inf, 0.0]), value)
        if kind == 4:
            return (value.ravel(), value[None], value[:0], value[::-1])[rng.integers(4)]
        return value.astype(("f2", "i1", "u1", "?", "O", "c16", "U4")[rng.integers(7)])
    if isinstance(value, float) and rng.random() < 0.7:
        return value * SCALES[rng.integers(len(SCALES))]
    return NO_VALUES[rng.integers(len(NO_VALUES))]


class TooSlow(BaseException):
    """The seconds are over; no handler of errors may hold it."""


def _ring(*_: Any) -> None:
    raise TooSlow


@contextlib.contextmanager
def limited(seconds: float, timer: int = signal.ITIMER_PROF, alarm: signal.Signals = signal.SIGPROF) -> Iterator[None]:
    """Raise `TooSlow` after so many seconds of the processor: other work on the machine does not count."""
    before = signal.signal(alarm, _ring)
    signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        signal.setitimer(timer, 0)
        signal.signal(alarm, before)


def waited(seconds: float) -> contextlib.AbstractContextManager[None]:
    """Raise `TooSlow` after so many seconds on the wall, for what waits for a file."""
    return limited(seconds, signal.ITIMER_REAL, signal.SIGALRM)


def numbers(result: Any, field: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """All arrays of floats in a result, each with the name of its field."""
    if names := getattr(result, "_fields", getattr(result, "__dataclass_fields__", ())):
        for name in names:
            yield from numbers(getattr(result, name), name)
    elif isinstance(result, dict | tuple | list):
        for item in result.values() if isinstance(result, dict) else result:
            yield from numbers(item, field)
    elif isinstance(result, float | np.floating | np.ndarray) and np.asarray(result).dtype.kind in "fc":
        yield field, np.asarray(result)


def outcome(function: Callable[..., Any], arguments: dict[str, Any], seed: int, name: str = "") -> tuple[str, Any]:
    """What a call came to: "answered", "refused", or what a user should never see, with its words."""
    arguments = {name: np.random.default_rng(seed) if name in RNGS else v for name, v in arguments.items()}
    try:
        with limited(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("error")
            result = function(**arguments)
            result = list(result) if inspect.isgenerator(result) else result
    except TypeCheckError:  # the tests' own hook, before the function begins; a user has none
        return "refused", None
    except ArgumentError as error:
        return ("refused" if 10 < len(str(error)) < 1000 else "a refusal too short or too long"), str(error)
    except TooSlow:
        return "over ten seconds", None
    except MemoryError:
        return "MemoryError", None
    except Exception as error:
        return type(error).__name__, str(error)[:120]
    for field, array in numbers(result):
        if np.isnan(array).any() and field not in UNDEFINED.get(name, ()):
            return "NaN in silence", field
        if np.isinf(array).any() and field not in INFINITE.get(name, ()):
            return "∞ in silence", field
    return "answered", result


def same(first: Any, second: Any) -> bool:
    """Whether two results are the same numbers but for rounding."""
    pairs = list(zip(numbers(first), numbers(second), strict=True))
    return all(np.allclose(a, b, rtol=1e-9, atol=1e-12, equal_nan=True) for (_, a), (_, b) in pairs)


def one(name: str, function: Callable[..., Any], usual: dict[str, Any], rng: np.random.Generator) -> tuple[str, str]:
    """One call of a function: how it ended, and in which words a stranger would report it."""
    seed, package = int(rng.integers(2**31)), name.split(".")[0]
    several = {n: CHOICES.get(f"{package}.{n}", CHOICES.get(n)) for n in usual}
    plain = usual | {n: given[rng.integers(len(given))] for n, given in several.items() if given}
    if rng.random() < 0.4:
        plain = with_one(("N", "n1", "n2")[rng.integers(3)], plain)
    arguments, names = dict(plain), [n for n in plain if not isinstance(plain[n], OURS) and n not in RNGS]
    arrays = [n for n in names if isinstance(plain[n], np.ndarray) and plain[n].ndim]
    if arrays and rng.random() < 0.2:
        chosen = arrays[rng.integers(len(arrays))]
        arguments[chosen] = dressed(plain[chosen], rng)
        how, result = outcome(function, arguments, seed, name)
        if how == "answered" and not same(outcome(function, plain, seed, name)[1], result):
            how = "another answer for the same numbers"
    else:
        for chosen in rng.choice(names, min(len(names), int(rng.integers(1, 3))), replace=False):
            arguments[chosen] = replaced(plain[chosen], rng)
        how, result = outcome(function, arguments, seed, name)
    told = ", ".join(f"{n}={str(v)[:60]!r}" for n, v in arguments.items() if v is not usual.get(n))
    return how, f"{name}({told}): {how} {result if isinstance(result, str) else ''}"


def calls(count: int, seed: int, only: str = "") -> collections.Counter[str]:
    """So many calls over all functions; what should not have been is printed."""
    table, rng, ends = functions(), np.random.default_rng(seed), collections.Counter()
    names = [name for name in table if only in name]
    for name in names:
        how, words = outcome(*table[name], seed, name)
        assert how == "answered", f"{name} refuses its usual arguments: {how}, {words}"
    for done in range(1, count + 1):
        name = names[rng.integers(len(names))]
        how, words = one(name, *table[name], rng)
        ends[how] += 1
        if how not in ("answered", "refused"):
            print(words, flush=True)
        progress(done, count, f": {dict(ends)}")
    return ends


def flags(study: str, rng: np.random.Generator) -> list[str]:
    """A command line with one or two hostile values."""
    config = importlib.import_module(f"allora_analysis.{study}.study").STUDY.config
    words = ("nan", "inf", "-1", "0", "1e400", "1e-400", "", "abc", "10000000000", "1e18", "-0.0", "½", "1,2", "None",
             "0.5", "1", "2", "3 -3", "../../x", "/dev/null", "\udcff", "1" * 400)  # fmt: skip
    names = [field.name for field in dataclasses.fields(config)]
    chosen = rng.choice(names, int(rng.integers(1, 3)), replace=False)
    line = [part for n in chosen for part in (f"--{n.replace('_', '-')}", *words[rng.integers(len(words))].split(" "))]
    return [*line, "--json", "-"]


def line(study: str, argv: list[str]) -> str:
    """How a command line ended, run in this process."""
    from allora_analysis import cli

    module = importlib.import_module(f"allora_analysis.{study}.study")
    out, err = io.StringIO(), io.StringIO()
    try:
        with limited(2 * SECONDS), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = cli.main(module.STUDY, argv)
    except SystemExit as error:
        status = error.code
    except TooSlow:
        return "over twenty seconds"
    except Exception as error:
        return f"{type(error).__name__} ({str(error)[:100]})"
    if status == 2:
        told = err.getvalue()
        whole = told.startswith("error: ") and told.endswith("\n") and told.count("\n") == 1 and len(told) < 1000
        return "refused" if whole and not out.getvalue() else "a refusal that is not one line"
    return "answered" if status == 0 and "NaN" not in out.getvalue() else f"status {status}, NaN"


def lines(count: int, seed: int) -> collections.Counter[str]:
    """So many command lines, in a folder that must stay empty."""
    rng, ends, before = np.random.default_rng(seed), collections.Counter(), os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for done in range(1, count + 1):
            study = STUDIES[rng.integers(len(STUDIES))]
            argv = flags(study, rng)
            how = line(study, argv)
            if how == "over twenty seconds" and "10000000000" in argv:
                how = "still at its 10¹⁰ draws or steps after 20 s"
            ends[how] += 1
            if how not in ("answered", "refused"):
                print(f"{study} {argv}: {how}", flush=True)
            progress(done, count, f": {dict(ends)}")
        os.chdir(before)
        assert not os.listdir(folder), f"files that nobody asked for: {os.listdir(folder)}"
    return ends


def main() -> int:
    """Both, recorded with their sizes."""
    numbers = {"calls": (CALLS, "of functions"), "lines": (LINES, "command lines"), "seed": (0, "of what is tried")}
    arguments = command_line(COMMAND, __doc__, "functions; nothing is recorded", **numbers)
    for name, what, count, run in (
        ("fuzz of functions", "hostile arguments to public functions", arguments.calls, calls),
        ("fuzz of command lines", "hostile values of flags", arguments.lines, lines),
    ):
        if not count:
            continue
        ends = run(count, arguments.seed, *([arguments.only] if run is calls else []))
        print(f"{what}: {dict(ends)}")
        known = {end: ends.pop(end, 0) for end in ("answered", "refused")}
        if not arguments.only:
            found = f"{known['answered']:,} answered, {known['refused']:,} refused in one line"
            found += "".join(f", {times:,} {end}" for end, times in ends.items())
            own = f" --{'calls' if run is calls else 'lines'} {count}" + f" --seed {arguments.seed}" * bool(
                arguments.seed
            )
            record(name, what, COMMAND + own, count, "calls" if run is calls else "command lines", found, "nothing")
    return 0


if __name__ == "__main__":
    sys.exit(main())
