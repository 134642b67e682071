"""Contenders timed side by side in one process: interleaved rounds, ratios within a round, peak memory.

Other work on the machine slows all contenders of a round alike; the median over rounds of a ratio within the round is
what is left. On a CPU the process's own time is reported beside the wall's: with one thread it does not see others.
"""

import math
import time
from collections.abc import Callable
from statistics import median

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

Task = Callable[[], None]


def clocks(task: Task, device: str) -> tuple[float, float]:
    """Milliseconds of one run: (wall, the process's own) on a CPU; between two device events, twice, on a GPU."""
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        task()
        end.record()
        torch.cuda.synchronize()
        return (start.elapsed_time(end),) * 2
    wall, own = time.perf_counter(), time.process_time()
    task()
    return (time.perf_counter() - wall) * 1e3, (time.process_time() - own) * 1e3


def rounds(tasks: dict[str, Task], count: int, device: str) -> dict[str, list[tuple[float, float]]]:
    """`count` rounds of every task, each round in another order, after two runs to warm up."""
    for task in tasks.values():
        task(), task()
    names, times = list(tasks), {name: [] for name in tasks}
    for turn in range(count):
        shift, step = turn % len(names), 1 if turn // len(names) % 2 == 0 else -1
        for name in (names[shift:] + names[:shift])[::step]:
            times[name].append(clocks(tasks[name], device))
    return times


def ratio(times: dict[str, list[tuple[float, float]]], ours: str, peer: str, clock: int) -> float:
    """The median over rounds of ours / the peer's."""
    return median(own[clock] / other[clock] for own, other in zip(times[ours], times[peer], strict=True))


def geometric_mean(values: list[float]) -> float:
    """The n-th root of the product."""
    return math.exp(sum(map(math.log, values)) / len(values))


class _Live(TorchDispatchMode):
    """Counts the bytes of every storage that an operation makes, until it is freed; views of older ones are not new."""

    def __init__(self):
        super().__init__()
        self.seen, self.peak = WeakIdKeyDictionary(), 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        for part in tree_leaves((args, kwargs)):
            if isinstance(part, torch.Tensor):
                self.seen.setdefault(part.untyped_storage(), 0)
        result = function(*args, **(kwargs or {}))
        for part in tree_leaves(result):
            if isinstance(part, torch.Tensor):
                self.seen.setdefault(part.untyped_storage(), part.untyped_storage().nbytes())
        self.peak = max(self.peak, sum(self.seen.values()))
        return result


def peak_memory(task: Task, device: str) -> float:
    """The most that one run holds above what was there before, in MiB."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        task()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with _Live() as live:
        task()
    return live.peak / 2**20
