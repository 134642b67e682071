"""`row_kernel.cpp`, compiled on first use and kept: a step of pairs on a CPU, each row of B moved right after its norm.

A plain shared library without torch's headers: a compiler is all it takes, and it fits every release of torch. It lies
where torch keeps extensions, under a name made from the source, the command and what the compiler says of this CPU, so
that machines that share the folder share no instructions; it is renamed into place when it is whole, so that processes
need not wait for each other. Checked by `tests/test_lora_row_kernel.py`; timed by `benchmarks/optimizer.py`.
"""

from __future__ import annotations

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

import torch
from torch import Tensor

from allora_analysis.adaptors import ADAPTORS
from allora_analysis.lora.autograd import LARGEST_CONDITION, SMALLEST_TRACE
from allora_analysis.lora.moves import Hyper, Tensors
from allora_analysis.outputs import write_atomically
from allora_analysis.validation import ArgumentError

_SOURCE = Path(__file__).with_name("row_kernel.cpp")
_X86 = platform.machine().lower() in ("x86_64", "amd64")
_NATIVE = ["-march=native", "-mprefer-vector-width=512"] if _X86 else ["-mcpu=native"]
_FLAGS = ["-std=c++17", "-O3", *_NATIVE, "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared", "-pthread"]
_WAY_OUT = "install a C++ compiler (Debian: apt install g++), name one in CXX, or leave cpp_kernel out"


class _Rule(ctypes.Structure):
    """As the source has it."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("pairs", "outputs", "inputs", "rank")),
        *((name, ctypes.c_int64) for name in ("adaptor", "bfloat16", "maximize", "wide_counts", "threads")),
        *((name, ctypes.c_double) for name in ("eta", "lr", "beta1", "beta2", "eps", "decay")),
        *((name, ctypes.c_double) for name in ("largest_condition", "smallest_trace")),
    ]


@functools.cache
def library() -> ctypes.CDLL:
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


def takes(own: Sequence[Tensors]) -> bool:
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


def step(own: Sequence[Tensors], scalings: list[float], hyper: Hyper, eta: float, adaptor: str) -> None:
    """AdamW's step of pairs of one shape, times their factors.

    Args:
        own: of A and of B; without gradients for one that stays.
        scalings: |s| of each pair.
        hyper: AdamW's numbers.
        eta: η.
        adaptor: its name.
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
    library().step(ctypes.byref(rule), *(numbers.buffer_info()[0] for numbers in arrays))
    torch.autograd.graph.increment_version([one for part in own if part.counts for one in part.parameters])
