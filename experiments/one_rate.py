"""Tables 3 and 4 where a run takes a second, every arm at one base rate: `python -m experiments.one_rate`.

These rules were committed before the runs they speak of, but for two that say so: a family, and which procedures judge,
were fixed when differences had been seen. The network is small and sees digits: what it shows is no statement about
language models.

**Question.** (a) The paper's tables train every arm at one base rate l: is ALLoRA ahead of LoRA at η·l, and of the rest
of its family, under AdamW as the paper trains, and where the factor acts: under SGD, nothing clipped, and after Adam's
division (ALLoRAAdamW)? (b) Table 3's ALLoRA rises with η² about as much as LoRA at η·l does: of the eight procedures
of row `T3-procedure`, which do so? (c) The paper conjectures that its noise drags ALLoRA-OD down at early epochs: is
ALLoRA ahead of it after few steps? (Added, with all that is said of (c), when (a) had been read, before any run of it.)

**Arms.** `experiments.laboratory`'s pretrained network, its 200 images a run, batches of 32, rank 4, the rate falling
linearly to 0, drop rate 0.05 at A's input, 100 steps. The adapters are on the two hidden layers; the last layer is a
classifier drawn anew and trained whole at l (`allora_analysis.laboratory.one_rate`). η² is 1, 2 and 4. Under AdamW and
under SGD: LoRA at η·l (its classifier too, as its one printed rate can be read; and with the classifier at l), ALLoRA,
ALLoRA-OD, ASF-LoRA and LoRA × η; ALLoRAAdamW. For (b): Listing 1 under AdamW; under SGD at AdamW's l; with ε a tenth of
the median |∂L/∂B| at the start; with the classifier at η·l; the adapters at η·l; the factor after Adam's division; it
and the classifier at η·l; every rate times η. LoRA at η·l has the same optimizer and ε. For (c): ALLoRA and ALLoRA-OD
under both optimizers, in runs of 25 steps, over which the rate falls to 0, at a quarter of LoRA's best rate (of 100
steps).
**The base rate** l is a quarter of LoRA's best, so that every η·l stays below it and LoRA still gains, as it does in
Table 3; and, for (a) alone, LoRA's best. LoRA's best rate is that of the least mean validation loss over the seeds 1000
to 1004, by `experiments.laboratory`'s search, under each optimizer; nothing else is chosen.

**Seeds.** 0 to 59: of the images drawn, their order, A, the classifier, the masks. Arms share seeds. What seeds do not
vary is the data set and the pretrained network. For (c) 60 to 259, which no arm here has had.

**Test.** Test accuracy judges, test loss stands beside it. Differences paired by seed, Student's t.
(a) One-sided at 0.05 either way. "Universally better": each η² under each optimizer is a comparison at a quarter of the
best rate, Holm within the question (ALLoRA − LoRA at η·l: 9, with ALLoRAAdamW's three; ALLoRA − each other member: 18);
every one must hold, one that is clearly behind refutes. "On average": the mean over η² and both optimizers. The same at
LoRA's best rate, and each arm at the best of its three η² by the seed's own validation images, stand beside and decide
nothing. "Not better": at most 0.5 points behind on average.
(The averages of Table 4's arms are one family of four: these rules left that open, and it was fixed when the
differences had been seen. It is the stricter choice.)
(b) The ratio of ALLoRA's mean rise from η² = 1 to 4 over LoRA's, with Fieller's 95 % interval over seeds. A procedure
is consistent with Table 3 if LoRA's accuracy at l is above a guess by a fifth at least of what it is under AdamW, and
that interval meets the 90 % interval of Table 3's own ratio. Foretold: as listed under AdamW, with the usual ε and the
large one, is not; every rate times η is. These three are judged, each on three lots of twenty seeds; all nine must come
out as foretold. Of the other five, in which one of the two steps grows with η or the factor falls while it trains,
theory gives no number: they stand beside, with the share that the row's linear layer predicts. (Under SGD AdamW's l is
a tenth or so of the right rate here and a thousandth in a language model, so that this one is no copy of the paper's.)
(The row's sentence is about training as listed, under AdamW: it judges the three procedures that may be called so, on
three lots each; before, SGD at AdamW's l was a fourth. The others stand beside, with no condition, as it would have
been written when the shares had been seen.)
ALLoRA's rise under AdamW as listed is equivalent to none if its 90 % interval is within ±0.3 points.
(c) One comparison, ALLoRA − ALLoRA-OD, the mean over η² and both optimizers. "Ahead early" holds where it is clearly
above 0 (one-sided at 0.05), by however little; it is refuted where it is clearly below 0, or where its 90 % interval
lies within ±0.1 points, a fifth of one test image; and is undecided else. The cases stand beside.

**Stopping rule.** The list is fixed, ten seeds at a time over all cells; every run is recorded whatever it shows; the
rows judge when all 60 seeds are there, (c)'s when its 200 are.

A pilot on the seeds 5000 to 5004 measured time (0.2 to 0.5 s a run beside other work) and, after these rules were
written, tried each cell once, on seed 5000, at 0.003 under AdamW and 0.03 under SGD: all train. It changed no rule.
Runs go to the laboratory's table; what is recorded is skipped, and a table that was cut off goes on, on one machine
and revision to the same bytes; otherwise as `experiments.laboratory` says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from allora_analysis import cli, outputs
from allora_analysis.laboratory.one_rate import EARLY_SEEDS, OPTIMIZERS, SEEDS, early, lora, points
from allora_analysis.laboratory.storage import pack, present
from allora_analysis.laboratory.table import RESULTS, Table, read
from allora_analysis.study import progress
from allora_analysis.validation import count
from experiments.laboratory import CHUNK, begun, held, selection, table_of

DATA = "digits"
QUESTIONS = ((points(), SEEDS), (early(), EARLY_SEEDS))  # the runs of (a) and (b), and of (c)


@dataclass(frozen=True)
class Arguments:
    """Run every arm of Tables 3 and 4 at one base rate on the digits; what is recorded is skipped."""

    only: Annotated[tuple[str, ...], arg(metavar="[WORD ...]", help_behavior_hint="")] = ()
    """Only arms of these rules or optimizers: lora, allora, allora_adamw, allora_od, asf_lora, lora_x_eta; adamw,
    sgd."""
    seeds: int | None = None
    """Only this many seeds, from the first; default: all."""
    results: Annotated[Path, arg(metavar="FOLDER")] = RESULTS
    """Where the table is; default: experiments/results/laboratory of this repository."""
    dry_run: bool = False
    """Say what is recorded and what it shows; run nothing."""


def run(arguments: Arguments) -> int:
    """Run, and say what the table shows."""
    _, path = table_of(arguments.results, DATA)
    asked_for = selection(arguments.only, [point.cell for listed, _ in QUESTIONS for point in listed])
    most = None if arguments.seeds is None else count("--seeds", arguments.seeds)
    wanted = [
        (seeds[start : start + CHUNK], point)
        for listed, every in QUESTIONS
        for seeds in [every[:most]]
        for start in range(0, len(seeds), CHUNK)
        for point in listed
        if asked_for(point.cell)
    ]
    if not arguments.dry_run:
        with held(path, f"laboratory, {DATA}"):
            bench = begun(path, DATA)
            for optimizer in OPTIMIZERS:
                if any(point.optimizer == optimizer for _, point in wanted):
                    bench.tune(lora(optimizer))
            for chunk, point in progress(wanted, "one rate"):
                bench.ask(point.cell, point.rate(bench.table), chunk)
            pack(path)
    if not present(path):
        outputs.say(f"{path}: nothing is recorded yet")
        return 0
    _tell(read(path))
    return 0


def _tell(table: Table) -> None:
    for point in (point for listed, _ in QUESTIONS for point in listed):
        values = [point.values(table, endpoint) for endpoint in ("accuracy", "loss")]
        if values[0]:
            accuracy, loss = (sum(of.values()) / len(of) for of in values)
            cell, rate = point.cell, point.rate(table)
            more = ", ".join(
                [f"l = {rate:g}, {point.level}"]
                + ["adapters at η·l"] * cell.scaled
                + ["classifier at η·l"] * (cell.head == "eta_l")
                + ["ε of a tenth"] * bool(cell.epsilon)
            )
            outputs.say(f"{cell.words()}; {more}: {100 * accuracy:.2f} %, {loss:.4f} nats, n = {len(values[0])}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    return cli.guarded(lambda: run(cli.parse(Arguments, "python -m experiments.one_rate", argv)))


if __name__ == "__main__":
    raise SystemExit(main())
