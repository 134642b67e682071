"""One adapted layer, forward and backward: ALLoRA against the frozen layer, LoRA, PEFT's LoRA and DoRA, Listing 1.

`python benchmarks/layer.py` prints, for Qwen2-0.5B's shapes and a 7B model's, the median time of each and the median
over interleaved rounds of ALLoRA's time over the peer's. `--model` compares whole training steps with PEFT's LoRA.
One thread (`--threads 1`, the default) is the quiet way.
"""

import argparse
import platform
from statistics import median

import torch
from side_by_side import Task, geometric_mean, peak_memory, ratio, rounds
from torch import nn

from allora_analysis.lora.layers import ALLoRALinear

SHAPES = ((896, 896, 16), (896, 4864, 16), (4864, 896, 16), (4096, 4096, 32))  # inputs, outputs, rank
BATCH, TOKENS, ETA = 8, 128, 2.0
OURS = "ALLoRA"


class Listing1(torch.autograd.Function):
    """The paper's Listing 1, its class name mended, η an argument: BA formed, weight gradients per sequence."""

    @staticmethod
    def forward(ctx, x, a, b, eta):
        """The adapter's output, and the norms of BA's rows for later."""
        norms = torch.norm(b @ a, dim=1)
        ctx.save_for_backward(x, a, b, norms)
        ctx.eta = eta
        return x @ a.t() @ b.t()

    @staticmethod
    def backward(ctx, grad):
        """As printed."""
        x, a, b, norms = ctx.saved_tensors
        accelerate = 1.0 / torch.sqrt(norms + ctx.eta**-2)
        grad_x = grad @ b @ a
        grad_a = torch.transpose(grad.mul(accelerate) @ b, 1, 2) @ x
        grad_b = grad.mul(accelerate).transpose(1, 2) @ (x @ a.t())
        return grad_x, grad_a, grad_b, None


def peft_layer(base: nn.Linear, rank: int, use_dora: bool) -> nn.Module:
    """PEFT's own layer around a copy-free base."""
    from peft import LoraConfig, get_peft_model

    holder = nn.ModuleDict({"layer": base})
    holder.forward = None
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=["layer"], use_dora=use_dora)
    return get_peft_model(holder, config).base_model.model["layer"]


def contenders(inputs: int, outputs: int, rank: int, device: str, dtype: torch.dtype) -> dict[str, Task]:
    """One task each: output and all gradients, x's included, as inside a network."""
    like = {"device": device, "dtype": dtype}
    base = nn.Linear(inputs, outputs, bias=False, **like).requires_grad_(False)
    x = torch.randn(BATCH, TOKENS, inputs, **like).requires_grad_(True)
    grad = torch.randn(BATCH, TOKENS, outputs, **like)
    layer = ALLoRALinear(base, rank, ETA)
    nn.init.normal_(layer.b, std=0.01)
    a, b = layer.a, layer.b

    def task(forward, parameters) -> Task:
        return lambda: torch.autograd.grad(forward(x), (x, *parameters), grad) and None

    def peft_task(use_dora: bool) -> Task:
        module = peft_layer(nn.Linear(inputs, outputs, bias=False, **like), rank, use_dora).to(dtype)
        return task(module, [part for part in module.parameters() if part.requires_grad])

    return {
        OURS: task(layer, (a, b)),
        "frozen linear": task(base, ()),
        "LoRA, autograd": task(lambda x: base(x) + x @ a.mT @ b.mT, (a, b)),
        "LoRA, PEFT": peft_task(False),
        "DoRA, PEFT": peft_task(True),
        "Listing 1": task(lambda x: base(x) + Listing1.apply(x, a, b, ETA), (a, b)),
    }


def agree(inputs: int = 24, outputs: int = 36, rank: int = 4) -> None:
    """ALLoRA here and Listing 1 give the same gradients, so that the two are rightly compared."""
    x = torch.randn(2, 5, inputs, dtype=torch.float64, requires_grad=True)
    layer = ALLoRALinear(nn.Linear(inputs, outputs, dtype=torch.float64), rank, ETA)
    nn.init.normal_(layer.b)
    wanted = (x, layer.a, layer.b)
    ours = torch.autograd.grad(layer(x).square().sum(), wanted)
    listing = layer.base(x) + Listing1.apply(x, layer.a, layer.b, ETA)
    for own, other in zip(ours, torch.autograd.grad(listing.square().sum(), wanted), strict=True):
        torch.testing.assert_close(own, other)


def measure(shape: tuple[int, int, int], options: argparse.Namespace, dtype: torch.dtype) -> dict[str, tuple]:
    """Per contender: median milliseconds, ALLoRA's ratio to it by each clock, peak MiB."""
    tasks = contenders(*shape, options.device, dtype)
    times = rounds(tasks, options.rounds, options.device)
    return {
        name: (
            median(pair[0] for pair in times[name]),
            *(ratio(times, OURS, name, clock) for clock in (0, 1)),
            peak_memory(task, options.device),
        )
        for name, task in tasks.items()
    }


def report(title: str, rows: dict[str, tuple]) -> None:
    """One shape's table."""
    print(f"\n{title}\n{'':16s} {'ms':>9s} {'ALLoRA / it':>12s} {'(CPU time)':>11s} {'peak MiB':>9s}")
    for name, (milliseconds, wall, own, memory) in rows.items():
        print(f"{name:16s} {milliseconds:9.2f} {wall:12.3f} {own:11.3f} {memory:9.1f}")


def machine(device: str) -> str:
    """The hardware and torch's version, in one line."""
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return (
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}"
    )


def layers(options: argparse.Namespace) -> None:
    """Every shape, and the geometric means over them."""
    agree()
    dtype = getattr(torch, options.dtype)
    print(f"{machine(options.device)}, {options.dtype}, batch {BATCH} × {TOKENS} tokens, {options.rounds} rounds")
    found: list[dict[str, tuple]] = []
    for shape in SHAPES:
        found.append(measure(shape, options, dtype))
        report("{} → {}, r = {}".format(*shape), found[-1])
    print("\nALLoRA / it, geometric mean over the shapes: wall, CPU time")
    for name in found[0]:
        means = (geometric_mean([rows[name][clock] for rows in found]) for clock in (1, 2))
        print("{:16s} {:9.3f} {:9.3f}".format(name, *means))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float64"), default="float32")
    parser.add_argument("--model", choices=("minilm", "qwen2"), help="whole training steps of this model instead")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.model is None:
        return layers(options)
    from whole_model import steps

    return steps(options)


if __name__ == "__main__":
    main()
