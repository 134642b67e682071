"""What a kernel of one's own would make of ALLoRAAdamW's step, and what torch.compile makes of it: tried, not used.

`python benchmarks/row_kernel.py --rank 16` compiles the C++ below (a compiler is needed) for the pairs of
`benchmarks/optimizer.py`, at r = 16 or 64 in float32: AAᵀ by its lower half, then of 16 rows of B at a time norms,
factors and step while they are in the cache, then A's step at the mean factor. It does not guard against an A whose
AAᵀ float32 is too narrow for, nor knows amsgrad, other adaptors, experts or shards.

`--forms` adds steps of B that torch.compile's C++ backend makes, from A's roots R to the new B, four pairs a graph, A
by torch's fused kernel: the product BR as torch's own (`product`), as a broadcast sum (`broadcast`), or written out
column by column (`unrolled`); `step` leaves the norms out. A form compiles for up to a minute. Printed are the medians
over interleaved rounds of the CPU time over fused AdamW's, and how far the moves after five steps are from
ALLoRAAdamW's, as a part of the largest move.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from itertools import chain
from statistics import median

import torch
from layer import machine
from optimizer import ETA, LAYERS, LEARNING_RATE, adapters, by_shape
from side_by_side import Task, ratio, rounds
from torch import Tensor, nn
from torch.utils.cpp_extension import load_inline

from allora_analysis.lora.autograd import _roots
from allora_analysis.lora.optim import ALLoRAAdamW

DECAY, BETAS, EPS = 0.01, (0.9, 0.999), 1e-8
PAIRS_A_GRAPH = 4
FLAGS = ["-O3", "-march=native", "-mprefer-vector-width=512", "-fno-math-errno", "-fno-trapping-math"]
FLAGS += ["-fassociative-math", "-fno-signed-zeros"]  # sums in any order; divisions and roots as they are
SOURCE = r"""
typedef float V __attribute__((vector_size(64), aligned(4), may_alias));
using L = std::vector<at::Tensor>;
struct Adam { float beta1, beta2, eps, keep, rate, root; };
static float* data(const at::Tensor& t) { return t.data_ptr<float>(); }
static float sum(V v) { float s = 0; for (int k = 0; k < 16; k++) s += v[k]; return s; }
void grams(L as, at::Tensor out) {
  int64_t r = as[0].size(0), n = as[0].size(1);
  for (size_t p = 0; p < as.size(); p++) {
    float *a = data(as[p]), *g = data(out[p]);
    for (int64_t i = 0; i < r; i += 4) for (int64_t j = 0; j <= i; j += 4) {
      V s[4][4] = {};
      for (int64_t k = 0; k < n; k += 16) for (int x = 0; x < 4; x++) for (int y = 0; y < 4; y++)
        s[x][y] += *(V*)(a + (i + x) * n + k) * *(V*)(a + (j + y) * n + k);
      for (int x = 0; x < 4; x++) for (int y = 0; y < 4; y++)
        g[(i + x) * r + j + y] = g[(j + y) * r + i + x] = sum(s[x][y]);
    }
  }
}
static void adam(float* __restrict w, float* __restrict g, float* __restrict m, float* __restrict v, float d,
                 int64_t n, Adam o) {
  for (int64_t k = 0; k < n; k++) {
    m[k] += (1 - o.beta1) * (g[k] - m[k]);
    v[k] = o.beta2 * v[k] + (1 - o.beta2) * g[k] * g[k];
    w[k] = o.keep * w[k] - d * o.rate * m[k] / (__builtin_sqrtf(v[k]) * o.root + o.eps);
  }
}
template <int R> static float rows(float* b, float* g, float* m, float* v, float* root, int64_t n, float eta, Adam o) {
  float total = 0, d[16];
  for (int64_t i = 0; i < n; i += 16) {
    for (int c = 0; c < 16; c += 4) {
      V square[4] = {};
      for (int k = 0; k < R; k += 16) {
        V s[4] = {};
        for (int j = k; j < R; j++) for (int x = 0; x < 4; x++)
          s[x] += b[(i + c + x) * R + j] * *(V*)(root + j * R + k);
        for (int x = 0; x < 4; x++) square[x] += s[x] * s[x];
      }
      for (int x = 0; x < 4; x++) d[c + x] = sum(square[x]);
    }
    for (int c = 0; c < 16; c++) d[c] = 1 / __builtin_sqrtf(__builtin_sqrtf(d[c]) + 1 / (eta * eta));
    for (int c = 0; c < 16; c++) total += d[c];
    for (int64_t c = i * R; c < (i + 16) * R; c += R) adam(b + c, g + c, m + c, v + c, d[c / R - i], R, o);
  }
  return total / n;
}
void step(L a, L b, L ga, L gb, L ma, L mb, L va, L vb, at::Tensor roots, double eta, std::vector<double> o) {
  Adam own{(float)o[0], (float)o[1], (float)o[2], (float)o[3], (float)o[4], (float)o[5]};
  for (size_t p = 0; p < a.size(); p++) {
    auto f = b[p].size(1) == 16 ? rows<16> : rows<64>;
    float mean = f(data(b[p]), data(gb[p]), data(mb[p]), data(vb[p]), data(roots[p]), b[p].size(0), eta, own);
    adam(data(a[p]), data(ga[p]), data(ma[p]), data(va[p]), mean, a[p].numel(), own);
  }
}
"""
Pairs = list[tuple[nn.Parameter, ...]]


def parts_of(pairs: list[list[nn.Parameter]]) -> list[nn.Parameter]:
    """All matrices."""
    return [*chain.from_iterable(pairs)]


def lists_of(pairs: Pairs) -> list[list[Tensor]]:
    """A, B, their gradients, first and second moments."""
    turned = [[part.detach() for part in of] for of in zip(*pairs, strict=True)]
    gradients = [[part.grad for part in of] for of in zip(*pairs, strict=True)]
    return [*turned, *gradients, *([torch.zeros_like(one) for one in of] for of in turned + turned)]


def corrections(count: int) -> tuple[float, float]:
    """The rate and the factor of √v that Adam's bias corrections make at a step."""
    first, second = (1 - beta**count for beta in BETAS)
    return LEARNING_RATE / first, second**-0.5


def by_own_kernel(groups: list[Pairs]) -> Task:
    """The step by the C++ above; AAᵀ's Cholesky factors in float64 by torch."""
    own = load_inline("row_kernel", SOURCE, functions=["grams", "step"], extra_cflags=FLAGS)
    lists, count = [lists_of(group) for group in groups], 0

    def step() -> None:
        nonlocal count
        count += 1
        numbers = [*BETAS, EPS, 1 - LEARNING_RATE * DECAY, *corrections(count)]
        for group in lists:
            grams = torch.empty(len(group[0]), *[group[1][0].shape[1]] * 2)
            own.grams(group[0], grams)
            roots = torch.linalg.cholesky_ex(grams.double()).L.float().contiguous()
            own.step(*group, roots, ETA, numbers)

    return step


def product(b: Tensor, root: Tensor, form: str) -> Tensor:
    """BR, as `form` has torch.compile see it."""
    if form == "product":
        return b @ root
    if form == "broadcast":
        return (b.unsqueeze(2) * root).sum(1)
    total = b[:, :1] * root[0]
    for k in range(1, len(root)):
        total = total + b[:, k : k + 1] * root[k]
    return total


def step_of_rows(form: str, b: list, gradients: list, m: list, v: list, roots: list, numbers: Tensor) -> list[Tensor]:
    """B's step in place; its rows' factors."""
    factors = []
    for k, root in enumerate(roots):
        w, g, m0, v0 = (part.float() for part in (b[k], gradients[k], m[k], v[k]))
        d = torch.ones(len(w)) if form == "step" else (product(w, root, form).square().sum(1).sqrt() + ETA**-2).rsqrt()
        m1, v1 = m0 + (g - m0) * (1 - BETAS[0]), v0 * BETAS[1] + g * g * (1 - BETAS[1])
        move = numbers[0] * m1 / (v1.sqrt() * numbers[1] + EPS)
        b[k].copy_(w * (1 - LEARNING_RATE * DECAY) - d[:, None] * move), m[k].copy_(m1), v[k].copy_(v1)
        factors.append(d)
    return factors


def compiled(groups: list[Pairs], form: str) -> Task:
    """The step of B by torch.compile, the rest as `ALLoRAAdamW` has it."""
    rows = torch.compile(partial(step_of_rows, form), dynamic=False, fullgraph=True)
    numbers = {"beta1": BETAS[0], "beta2": BETAS[1], "eps": EPS, "amsgrad": False, "maximize": False}
    lists, count = [lists_of(group) for group in groups], torch.zeros(())

    @torch.no_grad()
    def step() -> None:
        count.add_(1)
        corrected = torch.tensor(corrections(int(count)))
        for a, b, ga, gb, ma, mb, va, vb in lists:
            roots, factors = [*_roots([one.float() for one in a]).contiguous().unbind()], []
            for k in range(0, len(a), PAIRS_A_GRAPH):
                factors += rows(*(of[k : k + PAIRS_A_GRAPH] for of in (b, gb, mb, vb, roots)), corrected)
            for *of, d in zip(a, ga, ma, va, torch.stack(factors).mean(1).tolist(), strict=True):
                own = ([one] for one in of)
                torch._fused_adamw_(*own, [], [count], lr=LEARNING_RATE * d, weight_decay=DECAY / d, **numbers)

    return step


def difference(make: Callable[[list[Pairs]], Task], rank: int, dtype: torch.dtype) -> float:
    """Of the moves of one layer's pairs after five steps from ALLoRAAdamW's, as a part of the largest."""
    pairs = adapters(1, "cpu", dtype, rank)
    twins = [[nn.Parameter(part.detach().clone()) for part in pair] for pair in pairs]
    for part, twin in zip(parts_of(pairs), parts_of(twins), strict=True):
        twin.grad = part.grad
    starts = [part.detach().clone() for part in parts_of(pairs)]
    optimizer = ALLoRAAdamW([{"params": twin, "pair": True} for twin in twins], LEARNING_RATE, ETA)
    step = make(by_shape(pairs))
    for _ in range(5):
        step(), optimizer.step()
    moved = [part.detach() - start for part, start in zip(parts_of(pairs), starts, strict=True)]
    wanted = [part.detach() - start for part, start in zip(parts_of(twins), starts, strict=True)]
    return max(((x - y).abs().max() / y.abs().max()).item() for x, y in zip(moved, wanted, strict=True))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--forms", nargs="*", default=[], choices=("step", "product", "broadcast", "unrolled"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch._dynamo.config.recompile_limit = 64  # a graph for each shape of each form
    rank, dtype = options.rank, getattr(torch, options.dtype)
    pairs = adapters(LAYERS, "cpu", dtype, rank)
    ways = {"own kernel": by_own_kernel} if rank in (16, 64) and dtype == torch.float32 else {}
    ways |= {f"compiled, {form}": partial(compiled, form=form) for form in options.forms}
    tasks = {name: way(by_shape(pairs)) for name, way in ways.items()}
    tasks["ALLoRAAdamW"] = ALLoRAAdamW([{"params": pair, "pair": True} for pair in pairs], LEARNING_RATE, ETA).step
    tasks["AdamW, fused"] = torch.optim.AdamW(parts_of(pairs), LEARNING_RATE, fused=True).step
    times = rounds(tasks, options.rounds, "cpu")
    print(f"{machine('cpu')}, {options.dtype}, {len(pairs)} pairs, r = {rank}; CPU time")
    for name in tasks:
        apart = f", moves apart {difference(ways[name], rank, dtype):.0e}" if name in ways else ""
        milliseconds = median(own for _, own in times[name])
        print(f"{name:20s} {milliseconds:7.2f} ms  {ratio(times, name, 'AdamW, fused', 1):5.2f}{apart}")


if __name__ == "__main__":
    main()
