"""A laboratory where a run takes about a second: `python -m experiments.laboratory`.

These rules were committed before the runs they speak of, but for those that say that they were changed or added when
runs had been seen.

**Question.** What the fine-tuning of pretrained language models leaves open because a run takes minutes: does the row
factor help, and where it acts (gradient, AdamW's update, output); which adaptor; which η²; does dropout help late and
harm early; is there an interaction of these; how do PEFT's baselines compare. Few steps (50) against many (300).

**Arms.** A network of inputs-64-64-outputs is pretrained on the first half of the classes and adapted at rank 4 to the
second half, 200 images a run, batches of 32, the rate falling linearly to 0, nothing clipped, float32
(`allora_analysis.laboratory`). *Screening*: 194 cells, `design.screening`, a quarter of {ALLoRA, ASF-LoRA} × {SGD,
momentum, AdamW} and ALLoRAAdamW × {inverse square root, inverse, exponential, constant} × η² {1, 2, 4, 16} × drop rate
{0, 0.05, 0.4} × steps {50, 300}, beside LoRA at each optimizer, drop rate and length, and rsLoRA, PiSSA, DoRA and LoRA+
through PEFT. *Contrasts*: the 48 of `design.contrasts`, that statements of the paper and its reviewers' questions name.
**Each cell has its own best rate.** Five rates half a decade apart, further ones while the best is at an end, then the
two half-way between the best and its neighbors (twelve at most) are tried on the seeds 1000 to 1004; the tuned rate is
the one of the least mean validation loss. **Each judging seed then chooses among the tuned rate and its two
neighbors**, a quarter of a decade away, by its own validation images (those training images that it does not draw): a
seed that diverges at one rate takes another, and the intervals hold the noise of the choice.

*This was changed twice after runs had been seen.* At first all seeds had one rate. ALLoRA with the constant adaptor is
LoRA at η times the rate, so that under SGD the two cells must agree, each at its best rate; after 50 steps and 70 seeds
they were 2.2 points apart, at 2·0.057 and 0.1: one choice of a rate for all seeds is an error that no seed shows. With
three rates a seed the two agree, and the identity became the contrast `control`. Then η² = 1, 2 and 16 under SGD were
all better than 4, since a rule had moved its tuned rate alone down: the next higher rate had diverged on a tuning seed.
A seed that chooses needs no such rule, and it was dropped. All runs are kept.

**Seeds.** 0 to 99 in the contrasts, 0 to 9 in the screening: of the images drawn, their order, A, the masks. Cells
share seeds. What seeds do not vary is the data set and the pretrained network: intervals speak of these.

**Test.** Test accuracy and test loss, each a family of its own. Differences paired by seed, Student's t over seeds,
95 % intervals, Holm over the contrasts of one question (`rule`, `dropout`, `placement`, `adaptor`, `eta2`,
`baselines`; both lengths). In accuracy two arms are equivalent if the 90 % interval is within ±0.3 points. The
screening tests nothing: it shows the mean difference from LoRA by each factor's level, with intervals over ten seeds. A
run that diverges (a loss that is not finite, or above 100 nats) counts as a guess.

**Stopping rule.** The lists are fixed; the contrasts, which are named beforehand, run first. Every run is recorded
whatever it shows. A contrast is judged when its 100 seeds are there.

**Placement**, a question added when all else had been run, its rules before its own runs: LoRA under AdamW with the
masks between A and B, where the paper's analysis has them (LoRA's code has them on A's input), drop rates 0.05 and 0.4
minus none, and 0.4 there minus 0.4 at the input, after few steps and many. Row
`3.1-figure-2-left-bottleneck-laboratory`: as for the input, 0.4 is below 0 and 0.05 after 50 steps and above both after
300, one-sided at 0.05, Holm over the four. It is judged on the seeds 0 to 59, run ten at a time.

**Placement again**, a rule added when those sixty seeds had been read, before its own runs. They left the row open:
-0.39 points after 300 steps (90 %: -0.71 to -0.08), which 129 to 175 seeds would tell from 0 if it were the truth. The
seeds 200 to 399, which nothing has used, run the three arms (none, 0.05 and 0.4 between A and B) at the same rates, and
judge the row alone by the same test when all two hundred are recorded, whatever they show; the first sixty then stand
beside, and are no part of it.

**Controls**, more of them, added when all else had been run, their rule before their own runs: one control a length
says on one degree of freedom how large the noise of choosing rates is. The constant adaptor is LoRA at η times the
rate, so that between any two of LoRA and the constant adaptor at η² = 2, 4 and 16 each truth is 0, under SGD and
under momentum. A length's σ is the root mean square of its controls' mean differences. A difference counts as clear
beyond t₀.₉₅ on four degrees of freedom times its σ; that of a mean over settings is the root of the settings' summed
squares over their number. *Changed since, before any run with finer rates was read:* the controls were each η² minus
LoRA, three and three of which share one LoRA and move with it, so that six differences had fewer than four degrees of
freedom. They are now η² = 2 minus LoRA and η² = 16 minus 4 under each optimizer: the same runs, four differences of
which no two share a cell.

**Finer rates after few steps**, a rule added when all else had been run, before its own runs. The controls after 50
steps came to 0.4 points where the truth is 0, after 300 to 0.1: after few steps accuracy still rises with the rate up
to a cliff (LoRA under SGD: 91 % at 0.18, a guess at 0.32), so what counts is how near to the cliff one of three rates
happens to lie. Each seed now chooses among nine rates after 50 steps, an eighth of a decade apart and within half a
decade of the tuned one, and 200 seeds judge; after 300 steps, in the screening, and for dropout and its placement,
whose effects were taken to be several times as large (they are 1.5 to 5 times what three rates make), all stays as it
was. Seen before: on the seeds 2000 to 2039, which judge nothing, three controls under SGD came to 0.3 with three rates,
to 0.2 with nine (0.0, 0.4 and 0.1, each ± 0.24), and to 0.3 with seventeen, which is what 40 seeds leave. The rule of
the controls stays. Nine rates were to be enough if at most one seed in fifty chose an end of them. In 10 of 23 cells,
under momentum and AdamW, more did, up to a fifth; so that each end which more than one in fifty choose gets two further
rates until it is none: *added when the runs at nine rates had been read.*

**Adaptors again**, a rule added when those two hundred seeds had been read, before its own runs. They left
`6-other-adaptors-laboratory` open: the constant adaptor 0.45 points ahead (90 %: 0.19 to 0.71) after 50 steps, beside
a margin of 0.26 that the controls' own seeds explain. The seeds 3000 to 3999, which nothing has used, run the three
contrasts of adaptors and the four controls after 50 steps, each seed choosing among the rates that the first two
hundred made of its cell's nine. They alone judge the row's three contrasts after 50 steps, and their controls make the
margin there, when all thousand are recorded, whatever they show; what was recorded stays for 300 steps and stands
beside. Of thousands drawn from the recorded differences, moved to a truth of 0.4 (0.3) for the constant adaptor and of
0 for the controls, the rule decides 94 % (60 %). *Changed since, when the thousand had been read:* the constant adaptor
is LoRA at η times the rate and does not fall with the row norm; it alone was ahead, and by it the row held. It stands
beside now, and the inverse and the exponential adaptor judge: a truth of 0.3 (0.2) for the inverse one would be found
in 84 % (26 %; `tests/test_claims_laboratory.py` asserts it).

**η² again**, a rule added when all of the above had been read, before its own runs. The first two hundred seeds left
`4-eta-needs-no-tuning-laboratory` open: η² = 1 is 0.23 points ahead of 4 after 50 steps (90 %: 0.00 to 0.47), 2 by
0.20, beside a margin of 0.26. The seeds 4000 to 5999, which nothing has used, run η² = 1, 2 and 4 under SGD after 50
steps, each seed choosing among the rates that the first two hundred made of its cell's nine. They alone judge the row's
two contrasts of 1 and 2 after 50 steps, by the same test as before, when all two thousand are recorded, whatever they
show. The margin after 50 steps is that of the controls on the seeds 3000 to 3999, 0.10 points, known before; η² = 16,
1.1 points behind, and 300 steps stay with what was recorded, and the first seeds stand beside. Of two thousand drawn
from the recorded differences, moved to a truth of 0.3 (0.23) for η² = 1 and of 0 for 2, the row is refuted in 98 %
(73 %), at a truth of 0 for both it holds in 52 %, else it stays open (`tests/test_claims_laboratory.py`).

**ALLoRA again**, a rule added when all of the above and the row had been read, before its own runs.
`4-better-than-lora-laboratory` was refuted by the first two hundred seeds (-0.41 points after 50 steps, 90 %: -0.55 to
-0.27), but its lengths had been looked at apart, and nine rates and 200 seeds taken, when runs had been seen, before
which it was open. The seeds 6000 to 6399, which nothing has used, run ALLoRA and LoRA under SGD, momentum and AdamW
after 50 steps, each seed choosing among the rates that the first two hundred made of its cell's nine. They alone judge
the row after 50 steps, by the same test as before, when all four hundred are recorded, whatever they show; 300 steps
stay with what was recorded. The margin after 50 steps is that of the controls on the seeds 3000 to 3999, 0.06 points in
a mean of three, known before; no control is under AdamW. Of thousands drawn from the recorded differences, moved to a
truth of -0.4 (-0.2), the row is refuted in all (in 70 %), at a truth of 0 nearly never decided
(`tests/test_claims_laboratory.py`).

**What it does not answer.** Interactions: no statement names one and none is tested. In a quarter of the combinations
pairs of factors are confounded with other pairs. LoRA's own scaling α/r: it is 1 throughout. Effects of 0.1 points
after 300 steps: with a hundred seeds 95 % intervals are ±0.2 there, and one method is up to 0.3 from itself. A line of
the table has no time: its runs were not timed one by one.

**MNIST**, a question added when all of the above had been read, its rules before its own runs: is ALLoRA at η² = 4 more
accurate than LoRA on another data set, with 4,861 test images in place of 191 and 5,000 validation images in place of
505? `--data mnist --data-root FOLDER --part lead` runs the seeds 0 to 59 of ALLoRA and LoRA under SGD, momentum and
AdamW, without dropout, after 50 steps and 300, and of the controls, each at rates chosen as on digits: each seed among
nine or more after 50 steps, among three after 300. Row `4-better-than-lora-mnist` judges by the rule of
`4-better-than-lora-laboratory`: the mean over the three optimizers of a length is clearly above its margin, which
MNIST's own controls make, or clearly below minus it, one-sided at 0.05, Holm over both lengths; both ways, or neither,
is undecided. It is judged when all sixty are recorded, whatever they show. Seen before: what digits show; of MNIST one
run each of three cells, for the time that it takes.

**CIFAR-10**, a question added when all of the above had been read, its rules before its own runs: is ALLoRA at η² = 4
more accurate than LoRA on photographs, 5,000 of them for the test and as many for validation? The same list, `--data
cifar10 --data-root FOLDER --part lead`, the seeds 0 to 59, on one network pretrained on the first five classes (0.61 of
their test images right) and adapted to the others, rates chosen as by MNIST's first rule. Row
`4-better-than-lora-cifar10` judges by that rule with one outcome more, which it lacks: "practically equal" refutes the
sentence, too, where after each length the 90 % interval of the mean over optimizers lies within ±0.3 points and one
method is at most 0.3 points from itself in such a mean, by CIFAR-10's own controls. (Said since, while rates were being
tuned and before a result was read: that outcome is looked at where MNIST's rule leaves the row open, and nowhere else;
open because one length is clearly ahead and the other clearly behind it stays.) It is judged when all sixty are
recorded, whatever they show. Seen before: what digits and MNIST show; of CIFAR-10 one run each of four cells, for the
time that it takes.

**CIFAR-10 again**, a rule added when those sixty had been read, before its own runs. By the first rule the sentence
would hold (7.4 points after 300 steps), 7.1 of them by no merit of ALLoRA's: on these photographs the validation loss
of trained networks, 1.5 to 1.8, is about that of a guess, log 5 = 1.61, so that the loss chose rates at which a network
only guesses: LoRA's under AdamW after 300 steps (0.1; 53 of 60 seeds right on less than a quarter of the images), and
under momentum after 50 steps in 8 seeds of ALLoRA, 3 of LoRA, 1 or 2 of each constant adaptor. So validation *accuracy*
chooses rates there, of the tuning seeds and of each judging seed, in the same steps as the loss does elsewhere: `--data
cifar10 --data-root FOLDER --part lead-by-accuracy`, the seeds 100 to 159, which nothing has used, and everything else
as in the first rule. Row `4-better-than-lora-cifar10` judges by these alone, when all sixty are recorded, whatever they
show; the first sixty stand beside. Should an arm be a guess on average all the same (less than 1/5 + 0.05 of the test
images right), the row is undecided and says so. Seen before, of the first sixty (told whole since, while runs went on):
after 50 steps 0.3 (-0.2 to 0.8) under SGD, -0.05 (-0.35 to 0.25) under AdamW, -1.0 (-3.0 to 1.0) under momentum, where
some guess; after 300 steps 0.8 (0.4 to 1.2), 21.2 and 0.3 (-0.2 to 0.7), SGD and momentum together 0.5 (0.2 to 0.8).

**MNIST again**, a rule added when MNIST's first sixty seeds and CIFAR-10 had been read, before its own runs. The first
rule left the sentence open: -0.09 points after 50 steps (90 %: -0.28 to 0.10), 0.00 after 300 (-0.14 to 0.13), beside
margins of 0.53 and 0.28, as two names of one arm, whose truth is 0, came out as far apart as 0.7 points after 50 steps
and 0.3 after 300, more than their seeds explain. The reason is the grid: η shifts it, so one name has a rate just below
the cliff where the other's next one is beyond, for all seeds alike; and after 300 steps up to 41 of 60 seeds chose an
end of their three rates. So rates are *shifted*: seeds that end in 0 to 9 share nine rates an eighth of a decade apart,
those of the next ten have others, a sixth of that distance higher, and so on through six shifts, which lie evenly
around the cell's tuned rate (the same as before). Where a grid happens to lie is then noise that the seeds show and
average. Ends are widened as after few steps elsewhere, at both lengths. `--data mnist --data-root FOLDER --part
lead-shifted`: the seeds 60 to 179 after 50 steps, 60 to 119 after 300, which nothing has used; arms, controls and all
else as in the first rule, validation loss chooses. Row `4-better-than-lora-mnist` judges by these alone, when all are
recorded, whatever they show, by CIFAR-10's rule: holds where a length's mean is clearly above its margin and the other
not clearly behind, refuted the other way round, or where neither is clear and at both lengths the 90 % interval and the
margin are within ±0.3 points (practically equal), undecided else, and undecided where an arm only guesses, as there;
the first sixty stand beside. At the standard deviations and the controls' errors recorded (normal differences), were
the truth 0, the interval would be within ±0.3 with probability 0.96 at each length, at a truth of -0.1 with 0.79, and
the margin with 0.99 and more, if seeds are all that the controls differ by. Should they differ by more all the same
(their χ² stands in the evidence), the margin says it. Seen before: all of the above; of shifted rates nothing.

**MNIST once more**, a rule added when those shifted runs had been read, before its own. Shifts did what they were for:
two names of one arm are 0.26 points apart at most, as their seeds explain after 50 steps (χ² = 4.9 on 4 degrees of
freedom) and nearly do after 300 (9.0, p = 0.06), and the margins are 0.17 and 0.18. The row stayed open by 0.001
points: -0.19 after 50 steps (90 %: -0.301 to -0.072), beside ±0.3; 0.00 after 300 (-0.13 to 0.13); under AdamW alone
-0.54 after 50 steps. The seeds 200 to 499, which nothing has used, run ALLoRA and LoRA under the three optimizers after
50 steps, at the rates that the first 120 made of each cell's nine, shifted as before (the same list runs them). They
alone judge the row after 50 steps, by the same test and with the margin of the recorded controls, 0.17 in a mean of
three, when all three hundred are recorded, whatever they show; 300 steps stay with what was recorded, and the first 120
stand beside. At their standard deviation (0.76 points) three hundred say "practically equal" with probability 0.81
where the truth is -0.19, 0.99 and more where it is within ±0.1 and 0.05 where it is -0.3, where they say "behind" with
0.84. (Said since: at a truth of -0.3 one of both looks says "practically equal" with up to 0.10.)

The default data are scikit-learn's embedded digits (191 test images of the second half). What is recorded is skipped; a
table that was cut off goes on, on one machine and revision to the same bytes. Elsewhere runs may come out otherwise (of
60 made again 7 did, one by 35 test images): a line of the table says where, or from which revision, those after it were
made. Lines are appended to DATA.jsonl; what completes its list packs them into DATA.jsonl.bz2.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from tyro.conf import arg

from allora_analysis import cli, images, outputs, records
from allora_analysis.laboratory import storage
from allora_analysis.laboratory import table as tables
from allora_analysis.laboratory.bench import Bench
from allora_analysis.laboratory.design import (
    AGAIN,
    ELSEWHERE,
    FINE_SEEDS,
    Cell,
    Contrast,
    contrasts,
    elsewhere,
    judged_again,
    screening,
)
from allora_analysis.laboratory.table import ENDPOINTS, RESULTS, SCREENING, Table
from allora_analysis.records.files import hold
from allora_analysis.statistics import Difference
from allora_analysis.study import progress
from allora_analysis.validation import ArgumentError, choice, count

LEADS: dict[str, dict[str, Any]] = {
    "lead": {},
    "lead-shifted": ELSEWHERE["mnist"],
    "lead-by-accuracy": ELSEWHERE["cifar10"],
}  # by --part, how rates are chosen
PARTS = ("contrasts", "screening", "all", *LEADS)
ON_MNIST = "rule elsewhere"  # what fresh seeds judge again there
CHUNK = 10  # seeds in a line of the table


@dataclass(frozen=True)
class Arguments:
    """Train small networks on images with LoRA's family, each arm at its own best rate; what is recorded is skipped."""

    data: Annotated[str, arg(metavar="digits|mnist|cifar10|FILE.npz")] = "digits"
    """The images."""
    data_root: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """torchvision's folder, for mnist and cifar10."""
    download: bool = False
    """Fetch mnist or cifar10 into --data-root if missing."""
    part: Annotated[str, arg(metavar="all|contrasts|screening|lead|lead-shifted|lead-by-accuracy")] = "all"
    """contrasts: 48 comparisons of two arms each by 60 to 200 seeds, some again by more; screening: 194 cells of 10
    seeds; lead: ALLoRA minus LoRA and the controls alone, 60 seeds each, the first rule of MNIST and CIFAR-10;
    lead-shifted: the same with other rates for each ten of seeds, as judged on MNIST; lead-by-accuracy: the same with
    rates that validation accuracy chooses, as judged on CIFAR-10."""
    only: Annotated[tuple[str, ...], arg(metavar="[WORD ...]", help_behavior_hint="")] = ()
    """Only cells of these rules or optimizers: lora, rslora, pissa, dora, loraplus, allora, asf_lora, allora_adamw;
    sgd, momentum, adamw."""
    seeds: int | None = None
    """Only this many judging seeds, from each list's first; default: all."""
    results: Annotated[Path, arg(metavar="FOLDER")] = RESULTS
    """Where the table goes; default: experiments/results/laboratory of this repository."""
    dry_run: bool = False
    """Say what the whole table shows, whatever --only, --part and --seeds; run nothing."""


class Judged(NamedTuple):
    """Cells, the seeds that judge them, whether these choose among nine rates or more; seeds a line of the table."""

    cells: list[Cell]
    seeds: range
    fine: bool = False
    chunk: int = CHUNK


def _chosen(arguments: Arguments) -> list[Judged]:
    # The lists in their order.
    lists = {
        "screening": [Judged(screening(), SCREENING)],
        "contrasts": [*_by_kind(contrasts()), *(_again(question) for question in AGAIN if question != ON_MNIST)],
    } | {name: _by_kind([*elsewhere("rule", **way), *elsewhere("control", **way)]) for name, way in LEADS.items()}
    lists["lead-shifted"].append(_again(ON_MNIST))
    parts = ("contrasts", "screening") if arguments.part == "all" else (arguments.part,)
    asked = [one for name in parts for one in lists[name]]
    asked_for = selection(arguments.only, screening())
    most = None if arguments.seeds is None else count("--seeds", arguments.seeds)
    chosen = [
        one._replace(cells=[cell for cell in one.cells if asked_for(cell)], seeds=one.seeds[:most]) for one in asked
    ]
    if not any(one.cells for one in chosen):
        raise ArgumentError(f"--only {' '.join(arguments.only)}: --part {arguments.part} has no such cell")
    return chosen


def _by_kind(wanted: Sequence[Contrast]) -> list[Judged]:
    # The cells of some contrasts by how many seeds judge them, and among how many rates these choose.
    judged: dict[tuple[Cell, bool], range] = {}
    for one in wanted:
        for own in ((one.first, one.fine), (one.second, one.fine)):
            judged[own] = max(judged.get(own, range(0)), one.judges, key=len)
    kinds = sorted({(len(seeds), fine, seeds.start) for (_, fine), seeds in judged.items()}, reverse=True)
    return [
        Judged(
            [cell for cell, fine in judged if (len(judged[cell, fine]), fine) == (n, of)], range(start, start + n), of
        )
        for n, of, start in kinds
    ]


def selection(only: Sequence[str], cells: Sequence[Cell]) -> Callable[[Cell], bool]:
    """Whether a cell is of the rules and optimizers named, among those of some cells: of two kinds both count."""
    known = [dict.fromkeys(getattr(cell, kind) for cell in cells) for kind in ("rule", "optimizer")]
    for word in only:
        if not any(word in names for names in known):
            names = "; ".join(", ".join(of) for of in known)
            raise ArgumentError(f"--only: no cell has {word!r}; known are {names}")
    wanted = [set(only) & set(names) for names in known]

    def asked_for(cell: Cell) -> bool:
        own = (cell.rule, cell.optimizer)
        return all(not words or name in words for words, name in zip(wanted, own, strict=True))

    return asked_for


def _again(question: str) -> Judged:
    pairs = judged_again(question)
    cells = list(dict.fromkeys(cell for one in pairs for cell in (one.first, one.second)))
    fine, shifted = pairs[0].fine, pairs[0].first.shifted
    return Judged(cells, AGAIN[question], fine, 5 * CHUNK if fine and not shifted else CHUNK)


def _work(lists: Sequence[Judged]) -> Iterator[Callable[[Bench], object]]:
    # Tuning and the first seeds cell by cell, further seeds line by line over all cells: pairs are always complete.
    # Where seeds choose among nine rates or more, which these are follows from the first seeds: a cell's at once.
    for cells, seeds, fine, chunk in lists:
        chunks = [seeds[start : start + chunk] for start in range(0, len(seeds), chunk)]
        for own in [chunks] if fine and seeds.start < FINE_SEEDS else ([one] for one in chunks):
            for cell in cells:
                yield lambda bench, cell=cell, own=own, fine=fine: bench.judge(cell, own, fine)


def run(arguments: Arguments) -> int:
    """Run, and say what the table shows."""
    choice("--part", arguments.part, PARTS)
    lists = _chosen(arguments)
    name, path = table_of(arguments.results, arguments.data)
    images.refuse_root(arguments.data, arguments.data_root, arguments.download)
    if not arguments.dry_run:
        with held(path, f"laboratory, {name}"):
            table = begun(path, arguments.data, arguments.data_root, arguments.download)
            items = list(_work(lists))
            for work in progress(items, f"laboratory, {name}"):
                work(table)
            storage.pack(path)
    if not storage.present(path):
        outputs.say(f"{path}: nothing is recorded yet")
        return 0
    _tell(tables.read(path))
    return 0


def table_of(results: Path, data: str) -> tuple[str, Path]:
    """The data's name and its table, which may be still to be made; refuses results that are a file, and other data."""
    outputs.refuse_file("--results", results)
    name = images.name_of(data)
    return name, results / f"{name}.jsonl"


@contextlib.contextmanager
def held(path: Path, words: str) -> Iterator[None]:
    """Hold a table: each line's checksum goes over the line before, so two processes would spoil each other's."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(hold(path.with_suffix(".lock"), words))
        except OSError as error:
            raise ArgumentError(f"{path}: cannot be written ({error.strerror or error})") from None
        stack.enter_context(cli.goes_on())
        yield


def begun(path: Path, data: str, root: Path | None = None, download: bool = False) -> Bench:
    """The pretrained network, and the table to add to."""
    import torch

    from allora_analysis.laboratory import training

    torch.set_num_threads(1)  # such small products are slower on several
    loaded = images.load(data, root, download)
    task = training.prepare(loaded)
    facts = {"pretrained_accuracy": task.pretrained_accuracy, "begun": records.provenance(("peft",))}
    first = tables.header(loaded.name, loaded.digest, loaded.classes // 2, len(task.test[1]), **facts)
    return Bench(tables.begin(path, first), task)


def _tell(table: Table) -> None:
    outputs.say(
        f"{table.header['data']}: {table.runs} runs of {len(table.rows)} cells; brackets: 95 % intervals over seeds"
    )
    for before, after in itertools.pairwise(table.environments):
        told = ", ".join(tables.changed(before, after))
        outputs.say(f"gone on with at {after.get('time_utc', 'a time not told')}, with another {told}")
    for endpoint in ENDPOINTS:
        for question, of in table.contrasts(contrasts(), endpoint).items():
            for name, one in of.items():
                told = f"{_sized(one, endpoint)}, n = {len(one.differences)}, Holm's p {one.adjusted_p_value:.2g}"
                outputs.say(f"{question}, {endpoint}: {name}: {told}")
    for endpoint in ENDPOINTS:
        for factor in ("rule", "adaptor", "eta2", "drop_rate", "steps", "optimizer"):
            for level, one in table.marginal(screening(), factor, endpoint).items():
                outputs.say(f"screening, {endpoint}: {factor} {level}, minus LoRA: {_sized(one, endpoint)}")


def _sized(one: Difference, endpoint: str) -> str:
    unit, scale = ("points", 100) if endpoint == "accuracy" else ("nats", 1)
    low, high = (scale * end for end in one.interval)
    return f"{scale * one.mean:+.3f} {unit} [{low:+.3f}, {high:+.3f}]"


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    program = "python -m experiments.laboratory"
    return cli.guarded(lambda: run(cli.parse(Arguments, program, argv)))


if __name__ == "__main__":
    raise SystemExit(main())
