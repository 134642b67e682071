"""`ALLoRAAdamW(cpp_kernel=True)`: the C++ kernel against the NumPy twin and against the steps of torch's kernels."""

import copy
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from allora_analysis.lora import kernels
from allora_analysis.lora.optim import ALLoRAAdamW
from allora_analysis.validation import ArgumentError
from tests.brute_force import optim as reference
from tests.stat_assert import assert_rejects
from tests.test_lora_optim import CASES, Drawn, assert_same

ADAPTING = ("inverse_sqrt", "inverse", "exponential")


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory):
    """Compiled once, in a folder of this run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path_factory.mktemp("extensions")))
        kernels.row_kernel.cache_clear()
        yield kernels.row_kernel()
    kernels.row_kernel.cache_clear()


@pytest.fixture
def steps(monkeypatch):
    """How many pairs each call of the kernel stepped."""
    seen, own = [], kernels.move_by_rows
    monkeypatch.setattr(kernels, "move_by_rows", lambda of, *rest: (seen.append(len(of[0].parameters)), own(of, *rest)))
    return seen


def pairs_of(sizes, dtype=torch.float32, seed=0):
    """[A, B] for each (n₁, n₂, r)."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(size, *shape):
        return nn.Parameter((size * torch.randn(shape, generator=generator)).to(dtype))

    return [[drawn(n2**-0.5, r, n2), drawn(0.3, n1, r)] for n1, n2, r in sizes]


def twins_of(pairs):
    return [[nn.Parameter(part.detach().clone()) for part in pair] for pair in pairs]


def optimizer_of(pairs, kernel, scaling=1.0, **options):
    groups = [{"params": pair, "pair": True, "scaling": scaling} for pair in pairs]
    return ALLoRAAdamW(groups, **({"lr": 0.01, "eta": 3.0} | options), cpp_kernel=kernel)


def stepped(pairs, optimizer, steps=3, seed=1, missing=None):
    """With drawn gradients; [A, B] of each pair after them."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for pair in pairs:
            for k, part in enumerate(pair):
                gradient = 1 + torch.randn(part.shape, generator=generator, dtype=torch.float64)
                part.grad = None if k == missing else gradient.to(part.dtype)
        optimizer.step()
    return [part.detach() for pair in pairs for part in pair]


# -- against the twin


def by_kernel(gradients, start, scaling, **options):
    (a, b), path = [nn.Parameter(torch.tensor(part, dtype=torch.float32)) for part in start], [start]
    optimizer = optimizer_of([[a, b]], True, scaling, **options)
    for t in range(gradients.steps):
        a.grad, b.grad = (None if of is None else torch.tensor(of).float() for of in gradients(a, b, t))
        optimizer.step()
        path.append(tuple(part.detach().double().numpy().copy() for part in (a, b)))
    return path


def start_of(rng, n1, n2, r, size):
    return rng.normal(size=(r, n2)) / n2**0.5, size * rng.normal(size=(n1, r))


@pytest.mark.parametrize("case", [case for case in CASES if case[4] != "constant"], ids=str)
def test_equals_the_twin_over_many_steps(rng, case, steps):
    n1, n2, r, scaling, adaptor, eta, betas, decay, size = case
    gradients, start = Drawn(rng, n1, n2, r, 60), start_of(rng, n1, n2, r, size)
    options = {"lr": 0.01, "eta": eta, "betas": betas, "eps": 1e-8, "adaptor": adaptor}
    path = by_kernel(gradients, start, scaling, weight_decay=decay, **options)
    assert_same(path, reference.trajectory(*start, gradients, decay=decay, scaling=scaling, **options), 1e-5)
    assert len(steps) == 60
    assert np.abs(path[-1][1] - path[0][1]).max() > 0.05


@pytest.mark.parametrize("rank", [1, 3, 16, 17, 64])
@pytest.mark.parametrize("missing", [None, 0, 1])
def test_ranks_and_a_pair_of_which_one_stays(rng, rank, missing, steps):
    """Rows of B that fill blocks of the kernel and rows that do not, columns of A beyond one block of them."""
    gradients, start = Drawn(rng, 75, 301, rank, 4, missing), start_of(rng, 75, 301, rank, 0.3)
    path = by_kernel(gradients, start, 0.5, lr=0.01, eta=3.0, weight_decay=0.1)
    assert_same(path, reference.trajectory(*start, gradients, 0.01, 3.0, decay=0.1, scaling=0.5), 1e-5)
    assert len(steps) == 4
    if missing is not None:
        np.testing.assert_array_equal(path[-1][missing], start[missing].astype(np.float32))


@pytest.mark.parametrize("planted", [*reference.PLANTED, "exponent_minus_one", "scaling_left_out"])
def test_planted_twins_are_rejected_by_the_same_assertion(rng, planted):
    gradients, start = Drawn(rng, 5, 7, 2, 40), start_of(rng, 5, 7, 2, 0.5)
    path = by_kernel(gradients, start, 2.0, lr=0.01, eta=3.0, weight_decay=0.1)
    wrong = {"scaling": 1.0 if planted == "scaling_left_out" else 2.0}
    if planted in reference.ADAPTORS:
        wrong["adaptor"] = planted
    elif planted in reference.PLANTED:
        wrong["rule"] = planted
    assert_rejects(assert_same, path, reference.trajectory(*start, gradients, 0.01, 3.0, decay=0.1, **wrong), 1e-5)


def test_a_planted_kernel_is_rejected(rng, tmp_path, monkeypatch):
    """One that moves A by the last row's factor, compiled anew: it has another name."""
    source = kernels._SOURCE.read_text(encoding="utf-8")
    assert source.count("return total / rule.outputs;") == 1
    wrong = tmp_path / "wrong.cpp"
    wrong.write_text(source.replace("return total / rule.outputs;", "return d[0];"), encoding="utf-8")
    gradients, start = Drawn(rng, 5, 7, 2, 40), start_of(rng, 5, 7, 2, 0.5)
    right = reference.trajectory(*start, gradients, 0.01, 3.0, decay=0.1)
    monkeypatch.setattr(kernels, "_SOURCE", wrong)
    monkeypatch.setattr(kernels, "row_kernel", kernels.row_kernel.__wrapped__)
    assert_rejects(assert_same, by_kernel(gradients, start, 1.0, lr=0.01, eta=3.0, weight_decay=0.1), right, 1e-5)


# -- the row norms, where float32's AAᵀ would not do


def factors(a, b, eta):
    """(d by the kernel, mean(d)), read off a first step."""
    a, b = (nn.Parameter(torch.tensor(part, dtype=torch.float32)) for part in (a, b))
    before = [part.detach().double().numpy().copy() for part in (a, b)]
    a.grad, b.grad = torch.full_like(a, -1.0), torch.full_like(b, -1.0)
    with torch.no_grad():
        optimizer_of([[a, b]], True, lr=1.0, eta=eta, eps=0.0, weight_decay=0.0).step()
    moved = [part.detach().double().numpy() - start for part, start in zip((a, b), before, strict=True)]
    return moved[1], moved[0], before


def ill_conditioned(rng, small):
    """Two rows of A that differ by `small`, and a B along their difference: BA is that small, B and A are not."""
    a = np.repeat(rng.normal(size=(1, 40)), 2, axis=0) / 8
    a[1] += small * rng.normal(size=40)
    return np.float32(a), np.float32(np.outer(rng.uniform(0.5, 1, size=9), [1, -1]))


@pytest.mark.parametrize("small", [1e-1, 1e-3, 1e-5])
def test_row_norms_of_an_ill_conditioned_a(rng, small):
    a, b = ill_conditioned(rng, small)
    moved_b, moved_a, _ = factors(a, b, 100.0)
    d = reference.row_factor(np.float64(a), np.float64(b), 100.0)
    # an error of the norm in float32's last place of ‖B_i‖‖A‖, and what b + d rounds
    off = 4e-7 * np.linalg.norm(b, axis=1) * np.linalg.norm(a)
    allowed = 0.5 * d**3 * off + 1e-6 * (1 + d)
    assert (np.abs(moved_b - d[:, None]) <= allowed[:, None]).all()
    assert (np.abs(moved_a - d.mean()) <= allowed.mean()).all()
    gram = np.einsum("ij,jk,ik->i", b, a @ a.T, b)  # planted: the square in float32
    if small == 1e-5:
        assert (np.abs(1 / np.sqrt(np.sqrt(np.abs(gram)) + 1e-4) - d) > allowed).any()


@pytest.mark.parametrize("a", [np.zeros((3, 5)), np.ones((3, 5)), np.full((3, 5), 1e-30), np.eye(3, 2)], ids=str)
@pytest.mark.parametrize("size", [0.0, 1.0])
def test_degenerate_factors(a, size, rng):
    """A of 0, of rank 1, beyond float32's squares, with more rows than columns; B of 0."""
    b = np.float32(size * rng.normal(size=(7, 3)))
    moved_b, moved_a, (a, b) = factors(a, b, 2.0)
    d = reference.row_factor(a, b, 2.0)
    np.testing.assert_allclose(moved_b, np.repeat(d[:, None], 3, axis=1), rtol=0, atol=3e-6)
    np.testing.assert_allclose(moved_a, d.mean(), rtol=0, atol=3e-6)


# -- against the steps of torch's kernels


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 70), st.integers(1, 300), st.integers(1, 40)),
    st.integers(1, 3),
    st.sampled_from(ADAPTING),
    st.sampled_from([{}, {"amsgrad": True}, {"maximize": True}, {"foreach": True}, {"fused": True}]),
    st.tuples(st.sampled_from([0.0, 0.3, 0.9]), st.sampled_from([0.9, 0.999])),
    st.sampled_from([-2.0, 0.5, 1.0]),
    st.sampled_from([0.0, 0.1]),
    st.booleans(),
)
def test_equals_the_step_without_it(sizes, count, adaptor, switch, betas, scaling, decay, tensor_rate):
    pairs = pairs_of([sizes] * count)
    twins = twins_of(pairs)
    starts = [part.detach().clone() for pair in pairs for part in pair]
    options = {"adaptor": adaptor, "betas": betas, "weight_decay": decay, "scaling": scaling} | switch
    if tensor_rate and not switch.get("foreach"):
        options["lr"] = torch.tensor(0.01)
    got = stepped(pairs, ours := optimizer_of(pairs, True, **options))
    want = stepped(twins, theirs := optimizer_of(twins, False, **options))
    for one, other, start in zip(got, want, starts, strict=True):
        size = (other - start).abs().max()
        rounding = 3 * 2.0**-23 * other.abs().max()  # a unit in float32's last place at each of three steps
        assert (one - other).abs().max() <= 2e-5 * size + rounding
    for one, other in zip(ours.state.values(), theirs.state.values(), strict=True):
        assert one["step"] == other["step"]
        for moment in one:
            torch.testing.assert_close(one[moment], other[moment], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("switch", [{}, {"amsgrad": True}], ids=str)
def test_bfloat16_is_float32_rounded_on_storing(switch, steps):
    """Each step against a step of the same numbers in float32: A, B and the moments, to the bit."""
    low = pairs_of([(33, 70, 5), (20, 16, 16)], torch.bfloat16)
    high = [[nn.Parameter(part.detach().float()) for part in pair] for pair in low]
    ours, wide = (optimizer_of(pairs, True, **switch) for pairs in (low, high))
    for seed in range(4):
        stepped(low, ours, 1, seed)
        for pair, twin in zip(low, high, strict=True):
            for part, other in zip(pair, twin, strict=True):
                other.grad = part.grad.float()
        wide.step()
        for pair, twin in zip(low, high, strict=True):
            for part, other in zip(pair, twin, strict=True):
                assert torch.equal(part, other.bfloat16())
                assert part.dtype == ours.state[part]["exp_avg"].dtype == torch.bfloat16
                other.data.copy_(part)
                for moment, value in ours.state[part].items():
                    assert torch.equal(value, wide.state[other][moment].to(value.dtype))
                    wide.state[other][moment].copy_(value)
    assert len(steps) == 16


def test_what_is_no_number_stays_none_in_bfloat16():
    a, b = pairs_of([(2, 4, 1)], torch.bfloat16)[0]
    a.grad, b.grad = torch.ones_like(a), torch.tensor([[float("nan")], [-1.0]], dtype=torch.bfloat16)
    before = b.detach().clone()
    optimizer_of([[a, b]], True).step()
    assert b[0].isnan()
    assert b[1] > before[1]
    assert a.isfinite().all()


def test_the_result_knows_no_number_of_threads(monkeypatch):
    results = []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        pairs = pairs_of([(40, 50, 4)] * 5 + [(9, 300, 17)])
        results.append(stepped(pairs, optimizer_of(pairs, True)))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


# -- what it does not take goes the way it goes without it


def halves():
    return pairs_of([(8, 9, 2)], torch.float16)


def turned():
    return [[nn.Parameter(part.detach().T.contiguous().T) for part in pair] for pair in pairs_of([(8, 9, 2)])]


class Named(torch.Tensor):
    """A tensor of another class, whose memory need not be what it says."""


def subclassed():
    return [[nn.Parameter(part.detach().as_subclass(Named)) for part in pair] for pair in pairs_of([(8, 9, 2)])]


OTHERWISE = {
    "float64": (lambda: pairs_of([(8, 9, 2)], torch.float64), {}),
    "float16": (halves, {}),
    "layout": (turned, {}),
    "subclass": (subclassed, {}),
    "experts": (lambda: pairs_of([(8, 9, 4)]), {"experts": 2}),
    "constant": (lambda: pairs_of([(8, 9, 2)]), {"adaptor": "constant"}),
    "no pair": (lambda: pairs_of([(8, 9, 2)]), {"pair": False}),
}


@pytest.mark.parametrize("kind", OTHERWISE)
def test_what_it_does_not_take_is_stepped_as_without_it(kind, steps):
    make, group = OTHERWISE[kind]
    results = []
    for kernel in (True, False):
        pairs, other = make(), pairs_of([(3, 3, 1)])
        groups = [{"params": pair, "pair": True, "eta": 2.0} | group for pair in pairs] + [{"params": other[0]}]
        results.append(stepped(pairs, ALLoRAAdamW(groups, 0.01, 3.0, cpp_kernel=kernel)))
    assert not steps
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_under_torch_compile_it_is_left_out(monkeypatch, steps):
    pairs = pairs_of([(8, 9, 2)])
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    stepped(pairs, optimizer_of(pairs, True))
    assert not steps


@pytest.mark.parametrize("moment", ["exp_avg", "exp_avg_sq", "step"])
def test_a_state_that_the_kernel_would_misread_is_left_to_torch(moment, steps):
    """Set by hand: moments of another dtype, counts that are integers."""
    pairs = pairs_of([(8, 9, 2)])
    optimizer = optimizer_of(pairs, True)
    stepped(pairs, optimizer, 1)
    state = optimizer.state[pairs[0][0]]
    state[moment] = state[moment].double() if moment != "step" else state[moment].to(torch.int64)
    with pytest.raises(RuntimeError) if moment != "step" else pytest.MonkeyPatch.context():
        stepped(pairs, optimizer, 1)
    assert len(steps) == 1


# -- states, copies, autograd


def test_a_run_goes_on_from_a_saved_state_to_the_byte():
    sizes = [(40, 50, 4), (9, 300, 17)]
    whole, halved = pairs_of(sizes), pairs_of(sizes)
    optimizer = optimizer_of(whole, True)
    stepped(whole, optimizer, 3, 1), stepped(whole, optimizer, 3, 2)
    first = optimizer_of(halved, True)
    stepped(halved, first, 3, 1)
    assert all("cpp_kernel" not in group for group in first.state_dict()["param_groups"])
    resumed = twins_of(halved)
    second = optimizer_of(resumed, True, lr=9.0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    stepped(resumed, second, 3, 2)
    for one, other in zip(whole, resumed, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


@pytest.mark.parametrize("kernel", [False, True])
def test_states_load_from_and_into_steps_without_it(kernel, steps):
    pairs = pairs_of([(8, 9, 2)])
    twins, adamw = twins_of(pairs), torch.optim.AdamW([{"params": pair} for pair in pairs], lr=0.3)
    one, other = optimizer_of(pairs, kernel), optimizer_of(twins, not kernel)
    stepped(pairs, adamw, 1)
    for optimizer in (one, other):
        optimizer.load_state_dict(copy.deepcopy(adamw.state_dict()))
    stepped(pairs, one, 2)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    stepped(twins, other, 1)
    assert other.state[twins[0][0]]["step"] == 4
    assert len(steps) == (2 if kernel else 1)


def test_a_copy_keeps_it(steps):
    pairs = pairs_of([(8, 9, 2)])
    twin = copy.deepcopy(optimizer_of(pairs, True))
    stepped([group["params"] for group in twin.param_groups], twin)
    assert len(steps) == 3


def test_autograd_sees_that_a_and_b_have_changed():
    """As after any step of torch's: a second backward pass through the old A and B is an error."""
    pairs = pairs_of([(8, 9, 2)])
    loss = (pairs[0][1] @ pairs[0][0]).square().sum()
    loss.backward(retain_graph=True)
    optimizer_of(pairs, True).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# -- the compiler


@pytest.fixture
def anew(monkeypatch, tmp_path):
    """`library` without its memory, in an empty folder."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "own"))
    monkeypatch.setattr(kernels, "row_kernel", kernels.row_kernel.__wrapped__)
    return tmp_path / "own" / "allora_analysis"


def refusal():
    with pytest.raises(ArgumentError) as caught:
        optimizer_of(pairs_of([(8, 9, 2)]), True)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.bad_input
def test_without_a_compiler_one_line_names_the_way_out(monkeypatch, anew):
    monkeypatch.setenv("CXX", "/no/compiler -O1")
    assert refusal() == (
        "cpp_kernel: '/no/compiler' cannot be run (No such file or directory); install a C++ compiler (Debian: apt "
        "install g++), name one in CXX, or leave cpp_kernel out"
    )
    optimizer_of(pairs_of([(8, 9, 2)]), False)


@pytest.mark.bad_input
def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(monkeypatch, anew):
    monkeypatch.setattr(kernels, "_FLAGS", ["--no-such-flag"])
    assert "does not compile it" in (told := refusal())
    assert "--no-such-flag" in told
    assert not anew.exists() or not [*anew.iterdir()]


@pytest.mark.bad_input
def test_a_broken_library_and_a_switch_that_is_none(monkeypatch, anew):
    monkeypatch.setattr(kernels, "_told", lambda command: Path(command[-1]).write_text("no library") and "")
    monkeypatch.setattr(os, "devnull", str(anew.parent.parent / "nothing"))
    assert "does not load" in refusal()
    with pytest.raises((ArgumentError, TypeError), match=r"cpp_kernel.*'yes'"):  # the typing hook's, or ours
        optimizer_of(pairs_of([(8, 9, 2)]), "yes")


def test_two_at_once_do_not_wait_and_a_file_left_over_stops_nobody(anew):
    anew.mkdir(parents=True)
    for name in ("lock", ".writing-killed.so"):
        (anew / name).touch()
    with ThreadPoolExecutor(2) as pool:
        found = [*pool.map(lambda _: kernels.row_kernel(), range(2))]
    assert all(one.step for one in found)
    assert len([*anew.glob("row_kernel-*.so")]) == 1


def test_where_nothing_can_be_kept_it_is_compiled_for_this_process(anew, monkeypatch):
    anew.parent.touch()  # a file, no folder
    assert kernels.row_kernel().step
    assert anew.parent.read_text() == ""


def test_another_cpu_or_compiler_has_a_library_of_its_own(anew, monkeypatch, compiled):
    """What the compiler says of the CPU's instructions is in the name."""
    names = []
    monkeypatch.setattr(kernels, "_loaded", lambda path: names.append(path.name) or compiled)
    for macros in ("#define __AVX2__ 1", "#define __AVX512F__ 1", "#define __AVX2__ 1"):
        monkeypatch.setattr(kernels, "_told", lambda command, macros=macros: macros if "-dM" in command else "")
        kernels.row_kernel()
    assert names[0] == names[2] != names[1]
