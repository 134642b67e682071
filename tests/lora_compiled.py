"""Run in a process of its own, without the typing hook: compiled equals eager, in one graph. Exits 0 where it holds."""

import shutil
from collections.abc import Callable

import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from allora_analysis.lora.functional import allora, allora_od
from allora_analysis.lora.layers import ALLoRALinear
from allora_analysis.lora.optim import ALLoRAAdamW
from tests.lora_in_two_processes import difference, in_peft, steps, trained


def assert_compiled_equals_eager(module: nn.Module, backend: str) -> None:
    x = torch.randn(3, 4, 7, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(3, 4, 5, dtype=torch.float64)
    leaves = [x, *(part for part in module.parameters() if part.requires_grad)]
    compiled = torch.compile(module, fullgraph=True, backend=backend)
    for _ in range(2):
        outputs = module(x), compiled(x)
        torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-12, atol=1e-12)
        eager, fast = (torch.autograd.grad(output, leaves, grad) for output in outputs)
        torch.testing.assert_close(fast, eager, rtol=1e-12, atol=1e-12)
        with torch.no_grad():
            leaves[1].mul_(1.5)  # no value of a weight, and no factor, is baked in


class Function(nn.Module):
    """A function of x with A and B of its own."""

    def __init__(self, rule: Callable):
        super().__init__()
        self.rule = rule
        self.a = nn.Parameter(torch.randn(2, 7, dtype=torch.float64))
        self.b = nn.Parameter(torch.randn(5, 2, dtype=torch.float64))

    def forward(self, x):
        return self.rule(x, self.a, self.b, 2.0)


def layer(variant: str) -> ALLoRALinear:
    module = ALLoRALinear(nn.Linear(7, 5, dtype=torch.float64), 2, 2.0, variant)
    nn.init.normal_(module.b)
    return module


def assert_compiled_step_equals_eager() -> None:
    """In one graph for the first step and one for all others, the rate a tensor that a schedule changes."""
    generator, counter = torch.Generator().manual_seed(0), CompileCounter()
    pairs = [[nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((2, 9), (12, 2))]]
    pairs.append([nn.Parameter(part.detach().clone()) for part in pairs[0]])
    rates = 0.01, torch.tensor(0.01)
    eager, compiled = (
        ALLoRAAdamW([{"params": pair, "pair": True}], rate, 3.0) for pair, rate in zip(pairs, rates, strict=True)
    )
    step = torch.compile(compiled.step, backend=counter, fullgraph=True)
    schedules = [torch.optim.lr_scheduler.LambdaLR(one, lambda t: 1 / (t + 1)) for one in (eager, compiled)]
    for _ in range(6):
        for part, other in zip(*pairs, strict=True):
            part.grad = torch.randn(part.shape, generator=generator)
            other.grad = part.grad.clone()
        eager.step(), step()
        for schedule in schedules:
            schedule.step()
    assert counter.frame_count == 2, counter.frame_count
    for part, other in zip(*pairs, strict=True):
        torch.testing.assert_close(other, part, rtol=1e-5, atol=1e-7)


def assert_compiled_peft_model_trains_as_eager(variant: str) -> None:
    torch.compiler.reset()
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(8, 6, generator=generator, dtype=torch.float64), torch.arange(8) % 3
    compiled = in_peft(variant)
    steps(torch.compile(compiled, backend="aot_eager", fullgraph=True), x, y)
    assert difference(trained(compiled), steps(in_peft(variant), x, y)) < 1e-12
    assert difference(trained(compiled), trained(in_peft(variant))) > 1e-3


def assert_compiled_without_gradients(module: nn.Module) -> None:
    torch.compiler.reset()  # dynamo compiles one piece of code a few times only
    x, compiled = torch.randn(3, 7, dtype=torch.float64), torch.compile(module, fullgraph=True, backend="aot_eager")
    expected = module(x).detach()
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), expected)
    with torch.inference_mode():
        torch.testing.assert_close(compiled(x), expected)
    torch.testing.assert_close(compiled(x).detach(), expected)
    module.requires_grad_(False)
    torch.testing.assert_close(compiled(x), expected)
    leaf = x.clone().requires_grad_(True)
    found, wanted = (torch.autograd.grad(one(leaf).sin().sum(), leaf) for one in (compiled, module))
    torch.testing.assert_close(found, wanted)


if __name__ == "__main__":
    torch.manual_seed(0)
    backend = "inductor" if shutil.which("g++") else "aot_eager"
    assert_compiled_equals_eager(layer("allora"), backend)
    assert_compiled_equals_eager(Function(allora), "aot_eager")
    for variant in ("allora_od", "asf_lora"):
        assert_compiled_equals_eager(layer(variant), "aot_eager")
    for variant in ("allora", "allora_od", "asf_lora"):
        assert_compiled_peft_model_trains_as_eager(variant)
    for module in (layer("allora"), Function(allora_od)):
        assert_compiled_without_gradients(module)
    assert_compiled_step_equals_eager()
    print("compiled equals eager", backend)
