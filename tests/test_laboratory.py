"""The laboratory: its design is balanced, its arms start alike, its identities hold, its table survives being cut."""

import collections
import dataclasses
import itertools
import math
import resource
import signal

import numpy as np
import pytest
import torch

from allora_analysis import images
from allora_analysis.adaptors import ADAPTORS
from allora_analysis.grid.reproduce import lines
from allora_analysis.laboratory import storage, training
from allora_analysis.laboratory import table as tables
from allora_analysis.laboratory.bench import Bench
from allora_analysis.laboratory.design import (
    DROP_RATES,
    ETA2,
    FAMILY,
    PEFT,
    STEPS,
    Cell,
    check,
    contrasts,
    reference,
    screening,
)
from allora_analysis.laboratory.one_rate import EARLY_SEEDS
from allora_analysis.laboratory.table import Row, Table
from allora_analysis.lora.pairs import lora_pairs
from allora_analysis.records.files import hold
from allora_analysis.validation import ArgumentError
from experiments import laboratory, one_rate
from tests.test_experiments_finetune import STATED

ALLORA = Cell("allora", "sgd", 5, 0.0, "inverse_sqrt", 4.0)


def test_the_screening_is_balanced_and_has_every_reference():
    cells = screening()
    assert len(set(cells)) == len(cells) <= 200
    assert [check(cell) for cell in cells] == cells
    family = [cell for cell in cells if cell.rule in FAMILY]
    assert {reference(cell) for cell in family} <= set(cells)
    levels = {"adaptor": tuple(ADAPTORS), "eta2": ETA2, "drop_rate": DROP_RATES, "steps": STEPS}
    for (one, ours), (other, theirs) in itertools.combinations(levels.items(), 2):
        seen = collections.Counter((getattr(cell, one), getattr(cell, other)) for cell in family)
        assert set(seen) == set(itertools.product(ours, theirs))
        assert max(seen.values()) - min(seen.values()) <= 1, (one, other)
    ways = collections.Counter((cell.rule, cell.optimizer, cell.eta2, cell.steps) for cell in family)
    assert set(ways.values()) == {3}


def test_every_contrast_differs_in_what_it_names():
    for one in contrasts():
        assert one.first != one.second
        assert one.first.steps == one.second.steps
    names = [one.name for one in contrasts()]
    assert len(set(names)) == len(names)
    assert {rule for one in contrasts() for rule in (one.first.rule,)} >= {*PEFT, "allora", "allora_adamw"}


@pytest.mark.bad_input
def test_words_that_a_part_has_no_cell_of_are_refused(tmp_path, capsys):
    command = ["--part", "lead", "--only", "dora", "--results", str(tmp_path)]
    assert laboratory.main(command) == 2
    assert capsys.readouterr().err == "error: --only dora: --part lead has no such cell\n"
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("steps", STEPS)
def test_controls_are_names_of_one_arm_and_share_no_cell(steps):
    """LoRA's effective rate ηl and nothing else; four that share no cell are four degrees of freedom."""
    control = [one for one in contrasts() if one.question == "control" and one.first.steps == steps]
    cells = [cell for one in control for cell in (one.first, one.second)]
    assert len(set(cells)) == len(cells) == 8
    assert all(cell.rule == "lora" or cell.adaptor == "constant" for cell in cells)
    assert all(one.first.optimizer == one.second.optimizer != "adamw" for one in control)


def test_the_rules_are_stated():
    words = laboratory.__doc__
    assert all(f"**{title}.**" in words for title in STATED)
    assert f"{len(screening())} cells" in words
    assert f"the {len(contrasts())} of" in words
    assert f"({STEPS[0]}) against many ({STEPS[1]})" in words


def test_pretraining_is_reproducible_and_knows_the_first_half(task):
    again = training.prepare(images.load("digits"))
    assert task.pretrained_accuracy > 0.97
    for ours, theirs in zip(task.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert set(task.test[1].tolist()) == set(range(5))


@pytest.mark.parametrize("rule", ["lora", "dora", "rslora", "loraplus"])
def test_every_arm_starts_as_the_pretrained_network_from_one_a(task, rule):
    cell = Cell(rule)
    ours = training._adapted(task.network, ALLORA, torch.Generator().manual_seed(3))
    theirs = training._adapted(task.network, cell, torch.Generator().manual_seed(3))
    for one, other in zip(lora_pairs(ours), lora_pairs(theirs), strict=True):
        assert torch.equal(one.a, other.a)
        assert not other.b.any()
    x = task.test[0][:20]
    torch.testing.assert_close(theirs.eval()(x), task.network(x))


def test_pissa_starts_as_the_pretrained_network_too(task):
    x = task.test[0][:20]
    model = training._adapted(task.network, Cell("pissa"), torch.Generator().manual_seed(3)).eval()
    torch.testing.assert_close(model(x), task.network(x), rtol=1e-3, atol=1e-3)


def test_the_constant_adaptor_is_lora_at_a_higher_rate(task):
    """ALLoRA with the constant adaptor η at rate l under SGD is LoRA at ηl. Planted: at l."""
    constant = Cell("allora", "sgd", 20, 0.0, "constant", 4.0)
    found = training.run(task, constant, 0.01, 7)
    wanted = training.run(task, Cell("lora", "sgd", 20), 0.02, 7)
    assert found.loss == pytest.approx(wanted.loss, rel=1e-4)
    assert training.run(task, Cell("lora", "sgd", 20), 0.01, 7).loss > 1.02 * wanted.loss


def test_allora_adamw_without_a_factor_is_lora_under_adamw(task):
    plain = Cell("allora_adamw", "adamw", 20, 0.0, "constant", 1.0)
    wanted = training.run(task, Cell("lora", "adamw", 20), 0.01, 7)
    assert training.run(task, plain, 0.01, 7).loss == pytest.approx(wanted.loss, rel=1e-4)


def test_a_run_is_reproducible_and_the_dropout_is_drawn(task):
    cell = dataclasses.replace(ALLORA, drop_rate=0.4, steps=20)
    first = training.run(task, cell, 0.03, 1)
    assert training.run(task, cell, 0.03, 1) == first
    assert training.run(task, dataclasses.replace(cell, drop_rate=0.0), 0.03, 1) != first
    assert training.run(task, cell, 0.03, 2) != first


def test_a_run_that_diverges_says_so(task):
    assert training.run(task, ALLORA, 1e6, 0) == training.Outcome(None, 0, None)


def test_a_table_goes_on_to_the_same_bytes_and_shows_an_altered_line(task, tmp_path, monkeypatch):
    calls = []

    def told(task, cell, rate, seed):
        calls.append((cell, rate, seed))
        return training.Outcome(abs(math.log10(rate) + 1.3) + seed / 1e5, seed % 90, None if rate > 1 else 0.25)

    monkeypatch.setattr(training, "prepare", lambda _: task)
    monkeypatch.setattr(training, "run", told)
    monkeypatch.setattr(laboratory.records, "provenance", lambda packages=(): {"time_utc": "then"})
    command = ["--part", "screening", "--only", "lora", "sgd", "--seeds", "12"]
    whole = tmp_path / "whole" / "digits.jsonl"
    assert laboratory.main([*command, "--results", str(whole.parent)]) == 0
    content, ran = storage.content(whole), len(calls)
    assert [one.name for one in whole.parent.iterdir()] == ["digits.jsonl.bz2"]
    for cut in (1, 700, len(content) // 2, len(content) - 3):
        path = tmp_path / f"cut{cut}" / "digits.jsonl"
        path.parent.mkdir()
        path.write_bytes(content[:cut] if cut > 600 else b"")
        assert laboratory.main([*command, "--results", str(path.parent)]) == 0
        assert storage.content(path) == content
        assert storage.packed(path).read_bytes() == storage.packed(whole).read_bytes()
    assert laboratory.main([*command, "--results", str(whole.parent)]) == 0
    assert len(calls) < 5 * ran, "what is recorded was run again"
    storage.packed(whole).unlink()
    whole.write_bytes(content.replace(b'"rate":0.1,', b'"rate":0.2,', 1))
    with pytest.raises(ArgumentError, match=r"line \d+ was altered"):
        tables.read(whole)


@pytest.mark.parametrize(
    ("command", "words", "judging"),
    [
        (laboratory.main, ["--part", "contrasts", "--only", "lora", "sgd"], range(60)),  # lines of ten, and of fifty
        (one_rate.main, ["--only", "allora_od", "sgd"], [*range(60), *EARLY_SEEDS[:60]]),
    ],
)
def test_no_run_is_made_twice_whatever_the_numbers_of_seeds(command, words, judging, task, tmp_path, monkeypatch):
    """Planted: the second time a run comes out otherwise; and a line of seeds that are recorded."""
    calls, path = collections.Counter(), tmp_path / "digits.jsonl"

    def told(_, *run):
        calls[run] += 1
        return training.Outcome(abs(math.log10(run[1]) + 1.3) + run[2] / 1e5, calls[run], 0.25)

    monkeypatch.setattr(training, "prepare", lambda _: task)
    monkeypatch.setattr(training, "run", told)
    monkeypatch.setattr(laboratory.records, "provenance", lambda packages=(): {"time_utc": "then"})
    for seeds in ("12", "60"):
        assert command([*words, "--seeds", seeds, "--results", str(tmp_path)]) == 0
    table = tables.read(path)
    assert set(calls.values()) == {1}
    assert table.runs == calls.total()
    assert {seed for _, _, seed in calls if seed < 1000} == set(judging)
    cell, rate, _ = next(iter(calls))
    row = Row((0.0, 0.0), (2, 2), (0.0, 0.0))
    with pytest.raises(ArgumentError, match="recorded already"):
        tables.add(table, (cell, rate, 1004, 2), row)
    monkeypatch.setattr(tables, "_refuse_repeated", lambda *_: None)
    tables.add(table, (cell, rate, 1004, 2), row)
    monkeypatch.undo()
    with pytest.raises(ArgumentError, match="recorded already"):
        tables.read(path)


def test_a_gap_between_recorded_seeds_is_filled_and_no_more(task, tmp_path, monkeypatch):
    """Planted: of a line of ten, the seeds 2 and 3, and 6."""
    cell, seen = Cell("lora", "sgd"), []
    monkeypatch.setattr(training, "run", lambda *run: seen.append(run[-1]) or training.Outcome(1.0, 90, 0.25))
    table = tables.begin(tmp_path / "digits.jsonl", tables.header("digits", "0", 5, 100))
    tables.add(table, (cell, 0.1, 2, 2), Row((1.0,) * 2, (3,) * 2, (1.0,) * 2))
    tables.add(table, (cell, 0.1, 6, 1), Row((1.0,), (3,), (1.0,)))
    Bench(table, task).ask(cell, 0.1, range(10))
    assert seen == [0, 1, 4, 5, 7, 8, 9]
    assert tables.read(table.path).at(cell, 0.1).keys() == set(range(10))


def test_a_table_says_where_it_was_gone_on_with(task, tmp_path, monkeypatch, capsys):
    """Planted: another processor and a pretrained network of other accuracy for later seeds, no news for the last."""
    facts = {"time_utc": "then", "torch": "2.13", "cpu": "one"}
    monkeypatch.setattr(training, "prepare", lambda _: task)
    monkeypatch.setattr(training, "run", lambda *_: training.Outcome(1.0, 90, 0.25))
    monkeypatch.setattr(laboratory.records, "provenance", lambda packages=(): dict(facts))
    path, command = tmp_path / "digits.jsonl", ["--only", "rslora", "--part", "contrasts", "--results", str(tmp_path)]
    assert laboratory.main([*command, "--seeds", "10"]) == 0
    before = tables.read(path)
    assert before.environments == [{"pretrained_accuracy": task.pretrained_accuracy, **facts}]
    facts |= {"time_utc": "later", "cpu": "other"}
    monkeypatch.setattr(training, "prepare", lambda _: dataclasses.replace(task, pretrained_accuracy=0.5))
    assert laboratory.main([*command, "--seeds", "10"]) == 0
    assert tables.read(path).environments == before.environments, "nothing was run there"
    capsys.readouterr()
    for seeds, at in (("20", "later"), ("30", "later still")):
        facts["time_utc"] = at
        assert laboratory.main([*command, "--seeds", seeds]) == 0
        told = "gone on with at later, with another pretrained_accuracy, cpu\n"
        assert told in capsys.readouterr().out
    after = tables.read(path)
    gone_on = {"pretrained_accuracy": 0.5, "time_utc": "later", "torch": "2.13", "cpu": "other"}
    assert after.environments[1:] == [gone_on]
    assert after.runs > before.runs
    told = {line.config["seeds"][0]: line.provenance for line in lines(tmp_path)}
    first = {"time_utc": "then", "torch": "2.13", "cpu": "one"}
    assert told == {0: first, 1000: first} | dict.fromkeys((10, 20), first | {"time_utc": "later", "cpu": "other"})


def test_another_revision_on_the_same_machine_is_told_as_that_and_no_more(tmp_path, capsys):
    """Planted: a commit between two runs."""
    path, facts = tmp_path / "digits.jsonl", {"torch": "2.13", "git_revision": "a"}
    for seed, facts["git_revision"] in enumerate("ab"):
        first = tables.header("digits", "0", 5, 100, begun=facts | {"time_utc": "then"})
        tables.add(tables.begin(path, first), (Cell(), 0.1, seed, 1), Row((1.0,), (3,), (1.0,)))
    assert laboratory.main(["--dry-run", "--results", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "gone on with at then, with another git_revision\n" in out
    assert "elsewhere" not in out


def test_a_full_disk_takes_no_whole_line_of_a_table_that_was_cut(tmp_path):
    path = tmp_path / "digits.jsonl"
    table = tables.begin(path, tables.header("digits", "0", 5, 100))
    for steps in range(1, 6):
        tables.add(table, (Cell(steps=steps), 0.1, 0, 2), Row((1.0, 1.0), (3, 3), (1.0, 1.0)))
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"cell":{},"ra')
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) // 2, limits[1]))  # no file may be written beyond
    try:
        again = tables.begin(path, tables.header("digits", "0", 5, 100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == whole
    assert again.rows == table.rows


def test_a_second_process_is_refused_while_one_writes_the_table(tmp_path, capsys):
    with hold(tmp_path / "digits.lock", "laboratory, digits"):
        assert laboratory.main(["--only", "rslora", "--results", str(tmp_path)]) == 2
    assert "another process is at this run" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_says_that_what_is_recorded_is_kept(monkeypatch, tmp_path, capsys):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(laboratory, "begun", stopped)
    assert laboratory.main(["--only", "rslora", "--results", str(tmp_path)]) == 130
    told = "interrupted: what is recorded is kept; the same command goes on from there\n"
    assert capsys.readouterr().err.endswith(told)


def filled(values: dict[Cell, tuple[float, np.ndarray]]) -> Table:
    """A table: by cell its best rate and the share of test images right by seed; at the neighbors nothing is right."""
    table = Table(tables.header("toy", "0", 5, 1000))
    for cell, (rate, right) in values.items():
        n = len(right)
        for factor in (0.1, 1.0, 10.0):
            table.rows[cell][rate * factor, 1000, 5] = Row((1.0 + abs(math.log(factor)),) * 5, (0,) * 5, (1.0,) * 5)
        lower, middle, upper = table.candidates(cell)
        assert middle == rate
        assert lower < middle < upper
        for other in {*table.candidates(cell), *table.candidates(cell, fine=True)} - {rate}:
            table.rows[cell][other, 0, n] = Row((0.2,) * n, (0,) * n, (9.0,) * n)
        table.rows[cell][rate, 0, n] = Row((0.1,) * n, tuple(int(one) for one in 1000 * right), (0.3,) * n)
    return table


def test_each_seed_chooses_its_rate_on_its_own_validation_images():
    """Planted: the rate that is best on average, for all seeds."""
    cell = Cell("lora", "sgd")
    table = filled({cell: (0.1, np.full(4, 0.8))})
    lower, middle, upper = table.candidates(cell)
    table.rows[cell][upper, 0, 4] = Row((0.05, None, 0.3, 0.01), (900, 0, 100, 850), (0.2, None, 1.0, 0.25))
    assert table.values(cell, "accuracy") == {0: 0.9, 1: 0.8, 2: 0.8, 3: 0.85}
    assert table.candidates(cell, fine=True) == (0.032, 0.042, lower, 0.075, middle, 0.13, upper, 0.24, 0.32)
    table.rows[cell][0.24, 0, 4] = Row((0.04, 0.2, None, 0.02), (950, 0, 0, 100), (0.1, 9.0, None, 0.25))
    assert table.values(cell, "accuracy", fine=True) == {0: 0.95, 1: 0.8, 2: 0.8, 3: 0.85}
    assert table.values(cell, "loss") == {0: 0.2, 1: 0.3, 2: 0.3, 3: 0.25}
    diverged = Row((None,) * 4, (0,) * 4, (None,) * 4)
    table.rows[cell] |= {(rate, 0, 4): diverged for rate in (lower, middle, upper)}
    assert table.values(cell, "accuracy")[0] == 0.2  # a guess among five
    assert table.values(cell, "loss")[0] == pytest.approx(math.log(5))
    del table.rows[cell][lower, 0, 4]
    assert table.values(cell, "accuracy") == {}


def test_one_rate_for_all_seeds_is_that_of_their_least_mean_validation_loss():
    """Planted: a run that diverged left out, with which the upper rate would be best; the seeds not asked about."""
    cell = Cell("lora", "sgd")
    table = filled({cell: (0.1, np.full(4, 0.8))})
    _, _, upper = table.candidates(cell)
    table.rows[cell][upper, 0, 4] = Row((0.01, None, 0.02, 0.03), (900, 0, 850, 840), (0.2, None, 0.3, 0.4))
    assert table.at_one_rate(cell, "accuracy", range(4)) == dict.fromkeys(range(4), 0.8)
    assert table.at_one_rate(cell, "accuracy", range(2, 4)) == {2: 0.85, 3: 0.84}
    assert table.at_one_rate(cell, "loss", range(1, 2)) == {1: 0.3}
    assert table.at_one_rate(cell, "accuracy", range(7, 9)) == {}


def test_one_rate_counts_a_run_that_diverged_as_a_guess_of_what_chooses():
    """Planted: beside errors of 0.3, a rate at which one run in four diverged, which as a guess among five errs by 0.8.

    By the loss of a guess, 1.6, no such rate would be best.
    """
    cell = Cell("lora", "sgd", chosen_by="accuracy")
    table = filled({cell: (0.1, np.full(4, 0.25))})
    lower, middle, upper = table.candidates(cell)
    table.rows[cell][lower, 0, 4] = Row((0.9,) * 4, (0,) * 4, (9.0,) * 4)
    table.rows[cell][middle, 0, 4] = Row((0.3,) * 4, (250,) * 4, (0.3,) * 4)
    for others, right in ((0.1, 0.3), (0.15, 0.25)):
        table.rows[cell][upper, 0, 4] = Row((others, None, others, others), (300,) * 4, (0.2,) * 4)
        assert set(table.at_one_rate(cell, "accuracy", range(4)).values()) == {right}


def test_all_seeds_below_200_of_a_cell_that_chooses_among_nine_rates_are_one_piece_of_work():
    """Which rates they are follows from all of them."""
    lists = laboratory._chosen(laboratory.Arguments(part="lead-by-accuracy"))
    assert [(len(one.cells), one.seeds, one.fine) for one in lists] == [
        (12, range(100, 160), True),
        (12, range(100, 160), False),
    ]
    assert len(list(laboratory._work(lists))) == 12 + 6 * 12


def test_contrasts_are_read_at_the_best_rates_and_paired_by_seed():
    one = contrasts()[0]
    shared = np.random.default_rng(0).normal(0.8, 0.05, 100)
    own = np.random.default_rng(1).normal(0.0, 0.002, 100)
    table = filled({one.first: (0.1, shared + 0.004 + own), one.second: (0.3, shared)})
    found = table.contrasts(contrasts(), "accuracy")[one.question][one.name]
    assert len(found.differences) == 100
    assert found.mean == pytest.approx(0.004, abs=0.001)
    assert found.sign == 1
    assert np.ptp(found.interval) < 0.002  # pairing takes the seeds' own spread away
    assert list(table.contrasts(contrasts(), "accuracy")) == [one.question]


def test_seeds_that_judge_again_are_none_of_a_contrast_s():
    """Planted: of a contrast and of the screening the first twenty seeds, and as many fresh ones a point higher."""
    one = next(each for each in contrasts() if each.name == "constant − inverse_sqrt, sgd, 50 steps")
    family = next(cell for cell in screening() if cell.rule in FAMILY)
    cells = {one.first: 0.8, one.second: 0.8, family: 0.8, reference(family): 0.8}
    table = filled({cell: (0.1, np.full(20, share)) for cell, share in cells.items()})
    for cell in (one.first, family):
        for rate in table.candidates(cell, fine=True):
            table.rows[cell][rate, 3000, 20] = Row((0.1,) * 20, (900,) * 20, (0.1,) * 20)
    for cell in (one.second, reference(family)):
        for rate in table.candidates(cell, fine=True):
            table.rows[cell][rate, 3000, 20] = Row((0.1,) * 20, (700,) * 20, (0.1,) * 20)
    assert len(table.by_seed(one.first, one.second, "accuracy", fine=True)) == 40
    assert table.of(one, "accuracy") == [0.0] * 20
    assert table.differences(one.first, one.second, "accuracy", range(7)) == [0.0] * 7
    assert [level.mean for level in table.marginal([family], "steps", "accuracy").values()] == [0.0]


def test_few_steps_are_judged_among_nine_rates():
    """So near to a cliff that three rates of one arm lie below it, and of its twin the best is beyond."""
    by_name = {one.name: one for one in contrasts()}
    few, many = (by_name[f"ALLoRA − LoRA, sgd, {steps} steps"] for steps in STEPS)
    assert (few.fine, many.fine) == (True, False)
    assert (few.seeds, many.seeds) == (200, 100)
    assert not any(one.fine for one in by_name.values() if one.question in ("dropout", "placement"))
    table = filled({cell: (0.1, np.full(40, 0.8)) for cell in (few.first, few.second, many.first, many.second)})
    better = Row((0.01,) * 40, (900,) * 40, (0.1,) * 40)  # at a rate that is not among three
    for cell in (few.first, many.first):
        table.rows[cell][0.13, 0, 40] = better
    found = table.contrasts([few, many], "accuracy")["rule"]
    assert [round(found[one.name].mean, 3) for one in (few, many)] == [0.1, 0.0]


def test_an_end_that_seeds_choose_is_widened_until_they_do_not():
    cell = Cell("lora", "sgd")
    table = filled({cell: (0.1, np.full(100, 0.8))})
    nine = table.candidates(cell, fine=True)

    def best_at(rate, seeds, first=0):
        chosen = tuple(0.01 if first <= seed < first + seeds else 0.5 for seed in range(100))
        table.rows[cell][rate, 0, 100] = Row(chosen, (900,) * 100, (0.2,) * 100)

    best_at(nine[-1], 2)
    assert table.candidates(cell, fine=True) == nine, "two of a hundred are one in fifty"
    best_at(nine[-1], 3)
    wider = table.candidates(cell, fine=True)
    assert wider == (*nine, 0.42, 0.56)
    assert table.values(cell, "accuracy", fine=True) == {}, "not before the further rates have run"
    best_at(0.42, 0)
    best_at(0.56, 0)
    assert table.candidates(cell, fine=True) == wider
    assert len(table.values(cell, "accuracy", fine=True)) == 100
    best_at(nine[0], 3, first=50)
    assert table.candidates(cell, fine=True)[2:] == wider
    assert len(table.candidates(cell)) == 3


def test_a_marginal_is_the_mean_over_cells_of_a_level():
    family = [cell for cell in screening() if cell.rule in FAMILY]
    gain = {"inverse_sqrt": 0.02, "inverse": 0.01, "exponential": 0.0, "constant": -0.01}
    noise = np.random.default_rng(2)
    values = {cell: (0.1, np.full(10, 0.8 + gain[cell.adaptor]) + noise.normal(0, 0.002, 10)) for cell in family}
    values |= {reference(cell): (0.1, np.full(10, 0.8)) for cell in family}
    found = filled(values).marginal(screening(), "adaptor", "accuracy")
    assert {level: round(one.mean, 2) for level, one in found.items()} == gain


def test_the_search_closes_in_on_the_best_rate():
    table = Table(tables.header("toy", "0", 5, 100))
    cell = Cell("lora", "sgd")

    def loss(rate):
        return None if rate > 0.15 else abs(math.log10(rate / 0.12)) + 0.1

    def tried(rate):
        table.rows[cell][rate, 1000, 5] = Row((loss(rate),) * 5, (0,) * 5, (None,) * 5)

    for rate in tables.rates(cell):
        tried(rate)
    while (rate := tables.further(table.scores(cell))) is not None:
        tried(rate)
    assert list(table.scores(cell)) == [0.01, 0.032, 0.057, 0.1, 0.18, 0.32, 1.0]
    assert table.best_rate(cell) == 0.1
    assert table.candidates(cell) == (0.057, 0.1, 0.18)  # of which a seed that falls at 0.18 takes another
    assert tables.further({0.01: 3.0, 0.03: 2.0, 0.1: 1.0}) == 0.32
    assert tables.further({0.01: math.inf, 0.1: math.inf}) is None
    assert tables.further({10.0 ** -(k / 2): abs(k - 5.2) for k in range(12)}) is None  # `MOST_RATES` were tried
    assert table.values(cell, "loss") == {}


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (Cell("lora", adaptor="inverse"), "adaptor and eta2 must be left out"),
        (Cell("allora", eta2=4.0), "adaptor"),
        (Cell("allora_adamw", "sgd", adaptor="inverse", eta2=4.0), "optimizer must be adamw"),
        (Cell("lora", drop_rate=1.0), r"drop_rate must be a drop rate in \[0, 1\)"),
        (Cell("nothing"), "rule"),
    ],
)
def test_cells_that_make_no_sense(cell, words):
    with pytest.raises(ArgumentError, match=words):
        check(cell)


@pytest.mark.bad_input
def test_a_table_of_other_data_is_refused(tmp_path):
    path = tmp_path / "digits.jsonl"
    tables.begin(path, tables.header("digits", "0", 5, 100))
    with pytest.raises(ArgumentError, match="is a table of other data"):
        tables.begin(path, tables.header("digits", "1", 5, 100))
    assert laboratory.main(["--only", "nothing"]) == 2


@pytest.mark.bad_input
@pytest.mark.parametrize("command", [laboratory.main, one_rate.main])
def test_results_that_are_a_file_are_refused_by_a_dry_run_too(command, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert command(["--dry-run", "--results", str(tmp_path / "file")]) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert "--results must be a folder, received the file" in error
    assert command(["--dry-run", "--results", str(tmp_path / "new")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'new' / 'digits.jsonl'}: nothing is recorded yet\n"


@pytest.mark.bad_input
@pytest.mark.parametrize("flags", [["--dry-run"], []])
def test_a_folder_of_data_that_need_none_is_refused_by_a_dry_run_too(flags, tmp_path, capsys):
    assert laboratory.main(["--data-root", str(tmp_path), "--results", str(tmp_path / "new"), *flags]) == 2
    assert "--data-root and --download go with mnist and cifar10" in capsys.readouterr().err


@pytest.mark.bad_input
@pytest.mark.parametrize("flags", [["--dry-run"], []])
def test_data_of_another_name_are_refused_by_a_dry_run_too(flags, tmp_path, capsys):
    assert laboratory.main(["--data", "nope", "--results", str(tmp_path / "new"), *flags]) == 2
    told = "--data must be one of digits, mnist, cifar10, or name a file .npz; received 'nope'"
    assert told in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
