"""The kernels that move a pair for `optim.ALLoRAAdamW`: AdamW's step times a factor, by torch's own and by ours.

Torch's own move a stack of matrices together or one by one. Checked by `tests/test_lora_optim.py`.

`row_kernel.cpp`, compiled on first use and kept, makes a step of pairs on a CPU, each row of B moved right after its
norm. A plain shared library without torch's headers: a compiler is all it takes, and it fits every release of torch. It
lies where torch keeps extensions, under a name made from the source, the command and what the compiler says of this
CPU, so that machines that share the folder share no instructions; it is renamed into place when it is whole, so that
processes need not wait for each other. Checked by `tests/test_lora_row_kernel.py`; timed by `benchmarks/optimizer.py`.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import subprocess
import tempfile
from array import array
from collections.abc import Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from allora_analysis.adaptors import ADAPTORS
from allora_analysis.lora.autograd import LARGEST_CONDITION, SMALLEST_TRACE
from allora_analysis.lora.pairs import stacked
from allora_analysis.outputs import write_atomically
from allora_analysis.validation import ArgumentError

_TINY = 1e-30  # a factor that moves nothing, but by which a decay can be divided
_VECTOR = 64  # bytes: torch's loops take a row at a time if its factor is one number, and rows below are no vector
_SOURCE = Path(__file__).with_name("row_kernel.cpp")
_X86 = platform.machine().lower() in ("x86_64", "amd64")
_NATIVE = ["-march=native", "-mprefer-vector-width=512"] if _X86 else ["-mcpu=native"]
_FLAGS = ["-std=c++17", "-O3", *_NATIVE, "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared", "-pthread"]
_WAY_OUT = "install a C++ compiler (Debian: apt install g++), name one in CXX, or leave cpp_kernel out"


class Hyper(NamedTuple):
    """What must be equal for parameters to be updated in one call."""

    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    amsgrad: bool
    maximize: bool
    foreach: bool | None
    fused: bool | None


def but(hyper: Hyper, **other: Any) -> Hyper:
    """With other values; torch 2.7 does not compile `_replace`."""
    return Hyper(*[other.get(name, value) for name, value in zip(Hyper._fields, hyper, strict=True)])


class Tensors(NamedTuple):
    """What a kernel reads and writes: a list each, as torch's functions take them."""

    parameters: list[Tensor]
    gradients: list[Tensor]
    averages: list[Tensor]
    squares: list[Tensor]
    largest: list[Tensor]  # with amsgrad, else empty
    counts: list[Tensor]

    def without_gaps(self) -> bool:
        """Whether all are contiguous: the fused kernel walks through memory."""
        return all(all(map(Tensor.is_contiguous, of)) for of in self[:5])


def hyper_of(group: dict[str, Any]) -> Hyper:
    """A group's, whose betas a user may have set as a list."""
    return Hyper(
        group["lr"],
        tuple(group["betas"]),
        group["eps"],
        group["weight_decay"],
        group["amsgrad"],
        group["maximize"],
        group["foreach"],
        group["fused"],
    )


def _numbers(hyper: Hyper) -> dict[str, Any]:
    """As torch's functions name them."""
    own = dict(zip(Hyper._fields, hyper, strict=True))  # torch 2.7 does not compile `_asdict`
    own["beta1"], own["beta2"] = own.pop("betas")
    return {name: value for name, value in own.items() if name not in ("foreach", "fused")}


def adamw_on(targets: list[Tensor], own: Tensors, hyper: Hyper) -> None:
    """Torch's AdamW on `targets`, with the gradients and the state of `own`."""
    if hyper.fused and own.parameters[0].device.type == "cpu" and not own.without_gaps():
        hyper = but(hyper, fused=False)  # that kernel walks through memory and would take other entries' gradients
    _, *lists = own  # torch 2.7 compiles no slice of a named tuple
    adamw(targets, *lists, foreach=hyper.foreach, fused=hyper.fused, **_numbers(hyper))


def move_one_by_one(own: Tensors, k: int, factors: Tensor, hyper: Hyper) -> None:
    """`move_together` by torch's fused kernel on a CPU: of each matrix all that is touched stays in the cache.

    A factor for a whole matrix is one for its rate, and the kernel moves it in place.
    """
    *lists, counts = ([[one] for one in of] for of in own)
    lists[4] = lists[4] or [[]] * len(counts)
    torch._foreach_add_(own.counts, 1)
    numbers, rate, decay = _numbers(hyper), hyper.lr, hyper.weight_decay
    if k == 0 and factors.shape[1] == 1 and not isinstance(rate, Tensor):
        for *of, count, factor in zip(*lists, counts, factors.flatten().tolist(), strict=True):
            factor = max(factor, _TINY)
            numbers |= {"lr": factor * rate, "weight_decay": decay / factor}
            torch._fused_adamw_(*of, count, **numbers)
        return
    moved = torch.empty_like(first := own.parameters[0])
    spread = torch.empty_like(first) if first.ndim == 2 and first.shape[1] * first.element_size() < _VECTOR else None
    numbers["weight_decay"] = 0.0
    for (parameter,), *of, count, factor in zip(*lists, counts, factors.unbind(), strict=True):
        torch._fused_adamw_([moved.zero_()], *of, count, **numbers)
        if decay != 0:
            parameter.mul_(1 - rate * decay)
        if spread is None or len(factor) > 1:
            _add_scaled(parameter, k, moved, factor)
        else:
            parameter.addcmul_(moved, spread.copy_(factor[0]))


def move_together(own: Tensors, k: int, factors: Tensor, hyper: Hyper) -> None:
    """AdamW's step of the A (k = 0) or B (k = 1) of pairs of one shape, times their factors (pairs, experts, …)."""
    first, gaps = own.parameters[0], any(not parameter.is_contiguous() for parameter in own.parameters)
    if gaps or torch.compiler.is_compiling():  # torch's kernels want all laid out alike, compiled loops no views
        targets = [torch.zeros_like(parameter) for parameter in own.parameters]
    else:
        targets = list(torch.zeros(len(own.parameters), *first.shape, dtype=first.dtype, device=first.device).unbind())
    adamw_on(targets, own, but(hyper, weight_decay=0.0))
    if hyper.weight_decay != 0:
        torch._foreach_mul_(own.parameters, 1 - hyper.lr * hyper.weight_decay)
    for parameter, target, factor in zip(own.parameters, targets, factors.unbind(), strict=True):
        _add_scaled(parameter, k, target, factor)


def _add_scaled(parameter: Tensor, k: int, move: Tensor, factor: Tensor) -> None:
    """A ← A + mean(d)·move (k = 0) or B ← B + diag(d)·move (k = 1), of each expert with its d."""
    experts = len(factor)
    if experts == 1:
        parameter.addcmul_(move, factor.view(-1, *(1,) * (move.ndim - 1)))
        return
    stacked(parameter, k, experts).addcmul_(stacked(move, k, experts), factor)


class _Rule(ctypes.Structure):
    """As the source has it."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("pairs", "outputs", "inputs", "rank")),
        *((name, ctypes.c_int64) for name in ("adaptor", "bfloat16", "maximize", "wide_counts", "threads")),
        *((name, ctypes.c_double) for name in ("eta", "lr", "beta1", "beta2", "eps", "decay")),
        *((name, ctypes.c_double) for name in ("largest_condition", "smallest_trace")),
    ]


@functools.cache
def row_kernel() -> ctypes.CDLL:
    """The kernel, compiled if it is not there yet; an `ArgumentError` in one line if it cannot be."""
    from torch.utils.cpp_extension import get_default_build_root

    command = [*shlex.split(os.environ.get("CXX") or "c++"), *_FLAGS]
    told = _told([*command, "-dM", "-E", "-x", "c++", os.devnull])  # what it is, and what instructions this CPU has
    digest = hashlib.sha256("\0".join([*command, told, _SOURCE.read_text("utf-8")]).encode()).hexdigest()
    name = f"row_kernel-{digest[:16]}.so"
    kept = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root()) / "allora_analysis"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        for folder in (kept, Path(scratch)):  # where nothing can be kept, for this process
            try:
                folder.mkdir(parents=True, exist_ok=True)
                if not (folder / name).exists():
                    write_atomically(folder / name, lambda to: _told([*command, str(_SOURCE), "-o", str(to)]) and None)
            except OSError:
                continue
            return _loaded(folder / name)
    raise ArgumentError(f"cpp_kernel: {kept} cannot be written; name another folder in TORCH_EXTENSIONS_DIR")


def _loaded(path: Path) -> ctypes.CDLL:
    try:
        found = ctypes.CDLL(str(path))
    except OSError as error:
        raise ArgumentError(
            f"cpp_kernel: the compiled kernel does not load ({error}); remove it, or name a folder that programs may "
            "be run from in TORCH_EXTENSIONS_DIR"
        ) from error
    found.step.argtypes, found.step.restype = [ctypes.c_void_p] * 4, None
    return found


def _told(command: list[str]) -> str:
    """What a command prints; an `ArgumentError` if it fails."""
    try:
        return subprocess.run(
            command, check=True, capture_output=True, stdin=subprocess.DEVNULL, text=True, errors="replace", timeout=300
        ).stdout
    except OSError as error:
        raise ArgumentError(f"cpp_kernel: {command[0]!r} cannot be run ({error.strerror}); {_WAY_OUT}") from error
    except subprocess.TimeoutExpired as error:
        raise ArgumentError(f"cpp_kernel: {command[0]!r} has not ended after 300 s; {_WAY_OUT}") from error
    except subprocess.CalledProcessError as error:
        words = next((line for line in error.stderr.splitlines() if "error" in line), error.stderr)
        raise ArgumentError(f"cpp_kernel: {command[0]!r} does not compile it ({words}); {_WAY_OUT}") from error


def row_kernel_takes(own: Sequence[Tensors]) -> bool:
    """Whether all tensors are what the kernel walks through: contiguous, of one dtype that it knows, torch's own."""
    parts, counts = [[*chain(*part[:5])] for part in own], [*chain(*(part.counts for part in own))]
    tensors = [*chain(*parts)]
    return (
        {tensor.dtype for tensor in tensors} in ({torch.float32}, {torch.bfloat16})
        and {count.dtype for count in counts} in ({torch.float32}, {torch.float64})
        and {*map(type, tensors)} <= {Tensor, torch.nn.Parameter}
        and all(tensor.is_cpu for tensor in tensors + counts)
        and all(map(Tensor.is_contiguous, tensors))
        and all(len(sizes) == 1 and sizes != {0} for sizes in ({*map(Tensor.numel, part)} for part in parts))
    )


def move_by_rows(own: Sequence[Tensors], scalings: list[float], hyper: Hyper, eta: float, adaptor: str) -> None:
    """AdamW's step of pairs of one shape, times their factors: A's tensors and B's, without gradients for one that
    stays; |s| of each pair.
    """
    a, b = (part.parameters[0] for part in own)
    pairs, (beta1, beta2), counts = len(scalings), hyper.betas, own[0].counts or own[1].counts
    rule = _Rule(
        *(pairs, len(b), a.numel() // len(a), len(a), [*ADAPTORS].index(adaptor), a.dtype is torch.bfloat16),
        *(hyper.maximize, counts[0].dtype is torch.float64, min(pairs, torch.get_num_threads())),
        *(eta, float(hyper.lr), beta1, beta2, hyper.eps, hyper.weight_decay, LARGEST_CONDITION, SMALLEST_TRACE),
    )
    pointers = [
        array("Q", chain(*(map(Tensor.data_ptr, of) if of else repeat(0, pairs) for of in part))) for part in own
    ]
    arrays = [*pointers, array("d", scalings)]  # alive until the call is over
    row_kernel().step(ctypes.byref(rule), *(numbers.buffer_info()[0] for numbers in arrays))
    torch.autograd.graph.increment_version([one for part in own if part.counts for one in part.parameters])
