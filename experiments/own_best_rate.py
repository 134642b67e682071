"""Each arm at its own best rate, with seeds until it is decided: `python -m experiments.own_best_rate`.

These rules were committed before any of the runs they speak of (seeds 3 and above), but for what says that it was
added or changed when runs had been seen.

**Question.** Each method at the learning rate that suits it best: is ALLoRA's accuracy above LoRA's, below it, or the
same within 0.3 points? `experiments.learning_rates` asked this with three seeds, which could hardly have decided it.

**Arms.** rotten_tomatoes, no dropout in the adapters, η² = 4, linear schedule, gradient clipped at 1, bf16 autocast, as
in `experiments.learning_rates`. The rates are frozen: those of the highest validation accuracy, averaged over the seeds
0, 1 and 2, in that experiment's records (`python -m experiments.own_best_rate --rates` prints them again):

| list | arm | frozen rate | validation accuracy there | at the next best rate |
| --- | --- | --- | --- | --- |
| minilm-adamw | ALLoRA-0 | 1e-3 | 0.8133 | 0.7939 at 3e-4 |
| | ALLoRAAdamW | 1e-3 | 0.8149 | 0.8089 at 3e-4 |
| | LoRA | 1e-3 | 0.8108 | 0.8061 at 3e-3 |
| minilm-sgd | ALLoRA-0 | 1 | 0.8033 | 0.7964 at 3 |
| | LoRA | 3 | 0.8064 | 0.7936 at 1 |
| smollm2-adamw | ALLoRA-0 | 1e-3 | 0.8655 | 0.8627 at 3e-4 |
| | LoRA | 1e-3 | 0.8668 | 0.8599 at 3e-4 |

SGD keeps the clipping under which its rates were chosen. Without clipping no run has chosen any: in the records of
`experiments.row_norms`, at a constant rate and unclipped, LoRA ends between 0.50 and 0.77 on validation at rate 1.

SmolLM2-135M's list had ALLoRAAdamW at 3e-4, too. It was taken off before any run of it, when eight runs of each other
arm had been made: a run takes a third of an hour (the records' median), and without that arm the list can stop where
ALLoRA-0 is decided.

**Control.** ALLoRAAdamW at 1e-3 starts as LoRA at η·1e-3 = 2e-3 and keeps most of η, and 2e-3 was not on LoRA's list:
is its lead over LoRA at 1e-3 the rule's, or the rate's? The list minilm-control has ALLoRAAdamW at 1e-3 as it is, and
LoRA at 2e-3, on the same seeds. It was added when ALLoRAAdamW and LoRA at 1e-3 had 40 seeds, before any run at 2e-3.
Its one comparison, ALLoRAAdamW − LoRA at 2e-3, is a family of one: "above" says that the rule gives more than the
doubled rate, "below" or "equivalent" that what it gave is had without it. The forty seeds were stopped where
ALLoRAAdamW led LoRA at 1e-3, which favors it here, too: a lead over the control is told with that, and the other two
outcomes are the stronger for it. LoRA at 2e-3 − LoRA at 1e-3, on the same seeds, is reported beside it and decides
nothing.

**Control under SGD**, added when minilm-sgd had its sixty seeds and had been left open, before any run at rate 2. At
rate 1 ALLoRA-0's factor keeps 0.97 of η = 2 to the end, so that minilm-sgd compares LoRA at about 2 with LoRA at 3, and
2 was not on LoRA's list. The list minilm-sgd-control has ALLoRA-0 at 1 as it is, and LoRA at η·1 = 2, on the same
seeds, clipped at 1 as there. Its one comparison, ALLoRA-0 − LoRA at 2, is a family of one: "above" says that the rule
gives more than the doubled rate, "below" or "equivalent" that what it gives is had without it. The same test and
stopping rule; ALLoRA-0's runs are recorded, so that LoRA at 2 alone is run. LoRA at 2 − LoRA at 3, on the same seeds,
is reported beside it and decides nothing. A run that stays at chance (of LoRA at 3 one in sixty did) is counted, as
everywhere, though e-values then decide nothing for long: if one does, the seeds within 0.1 of the median difference, in
which both arms left chance, are judged by the same rule beside it, in the row's evidence. *Changed since, at ten
seeds:* this was to take the place of minilm-sgd in row `4-own-best-rate-sgd`. But LoRA at 3 was ahead of LoRA at 2 in
seven of the ten, so that 2 is not LoRA's own best rate: that row stays minilm-sgd's, and the control has its own,
`4-own-best-rate-sgd-control`, as the one under AdamW has. ALLoRA-0 − LoRA at 2 had been read: +0.34 points, e-value
above 0 6.4. Rates, seeds, test and stopping rule are as they were. (Where clipping acts it divides η out again as far
as A and B make up the gradient's norm, so that ALLoRA at 1 starts between LoRA at 1 and at 2: said since the runs.)

**Seeds.** 3 to 62, in this order, of A, the classifier, the order of the data; arms share seeds. Seeds 0, 1 and 2 chose
the rates and are not counted. Arms of one seed ran on one kind of machine, but for two of minilm-adamw, 5 and 20,
fifteen of minilm-control and eight of minilm-sgd-control, whose LoRA ran on another kind than the rest (by the records'
provenance): other bf16 kernels, no side favored. The lists take turns of eight seeds, since fewer pairs cannot decide.

**Endpoints.** Test accuracy after the last step decides. Test loss is reported beside it by the same test. A run whose
loss is no longer finite counts as a guess (the most frequent label's share, and −log of it); no seed is left out.

**Test.** Differences arm − LoRA, paired by seed, through `statistics.e_values.decide`: e-values of Student's t at an
effect of ±0.5 standard deviations. "ALLoRA is better" holds where the e-value against "the mean is at most 0" reaches
20; is refuted where that against "the mean is at least 0" does, or where both bounds lie within the margin, which is
±0.3 points of accuracy and ±0.004 of loss. Each of the three errs with probability at most 0.05, whenever one looks,
where differences are normal; not where a run may stay at chance (`statistics.e_values`, found after one had).
The margin of loss is what 0.3 points cost along LoRA's own curve: from rate 3e-4 to 1e-3 its validation accuracy rises
by 1.63 points and its loss falls by 0.0219. A verdict is of one arm, ALLoRA-0, on one list: each list is a family of
one. ALLoRAAdamW, and the loss, are reported beside it with e-values of their own; read together with it, the m
comparisons of a list need an e-value of 20·m each. So does ALLoRAAdamW's accuracy, which was made a question with a row
of its own when 24 seeds had been seen (e-value 6.7 above, +0.25 points): it is one of four, and 80 decides it.

**Stopping rule.** A list stops at the first seed after which all its arms are decided on accuracy (ALLoRA-0 at 20, an
arm beside it at 20·m: before ALLoRAAdamW's row, 20 was enough there, too, and had not been reached), or after 60. A
comparison's verdict is that of its first decision; later seeds change nothing. At 60 seeds without a decision the
verdict says which effects the bounds exclude. Every run is recorded whatever it shows. Once an arm is decided, later
seeds may be run without it (added when minilm-adamw's ALLoRA-0 had 24, four after its decision, over which its e-value
fell from 29 to 1): there LoRA and ALLoRAAdamW go on alone. Row `4-own-best-rate`, ALLoRA-0's on that list, has since
been given to `experiments.own_best_fresh`, as its answer hung on the order of these seeds.
"""

import dataclasses
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from allora_analysis import cli, outputs
from allora_analysis.finetune.setting import Setting
from allora_analysis.finetune.sources import resolve
from allora_analysis.grid import command
from allora_analysis.grid.presets import (
    LISTS,
    MARGINS,
    OWN_BEST,
    REFERENCE,
    blocks,
    own_best_decided,
    own_best_verdicts,
)
from allora_analysis.grid.reading import final_value, recorded


def best_rates(name: str) -> dict[str, dict[float, float]]:
    """What chose a list's rates, by arm and rate: mean validation accuracy in `experiments.learning_rates`."""
    listed, scores = OWN_BEST[name], {}
    runs = recorded(LISTS["learning_rates"]["desk"])
    for arm in listed.rates:
        for one, result in runs.items():
            if (one.model, one.optimizer, one.arm) == (listed.model, listed.optimizer, arm):
                value = final_value(result, "validation_accuracy")
                scores.setdefault(arm, {}).setdefault(one.learning_rate, []).append(value)
    return {arm: {rate: statistics.fmean(of) for rate, of in rates.items()} for arm, rates in scores.items()}


def _run(arguments: command.Arguments) -> int:
    # Seed after seed, what is not decided.
    folder, status = arguments.results, 0
    every = LISTS["own_best_rate"]["desk"]
    resolve([name for one in every for name in (one.model, one.data)], arguments.source, needed=())
    chosen = set(command.select(every, arguments.only, arguments.seeds))
    wanted = [(name, [one for one in runs if one in chosen]) for name, runs in blocks()]
    wanted = [(name, runs) for name, runs in wanted if runs]
    if arguments.dry_run or arguments.executor != "serial":
        opened = {name for name in OWN_BEST if not own_best_decided(name, folder)}
        listed = list(dict.fromkeys(one for name, runs in wanted if name in opened for one in runs))
        if listed:
            return _all(arguments, listed)
        outputs.say("nothing to run: what was asked for is decided")
        return 0
    closed: set[str] = set()
    for name, runs in wanted:
        if name in closed or own_best_decided(name, folder):
            closed.add(name)
        elif (status := max(status, _all(arguments, runs))) > 1:
            break
    _tell(folder)
    return status


def _all(arguments: command.Arguments, runs: Sequence[Setting]) -> int:
    narrowed = dataclasses.replace(arguments, only=(), seeds=None, source=_sources(arguments, runs))
    return command.run({"desk": list(runs)}, narrowed)


def _sources(arguments: command.Arguments, runs: Sequence[Setting]) -> tuple[str, ...]:
    names = {name for one in runs for name in (one.model, one.data)}
    return tuple(word for word in arguments.source if word.partition("=")[0] in names)


def _tell(folder: Path) -> None:
    for name in OWN_BEST:
        for endpoint in MARGINS:
            for arm, (_, one) in own_best_verdicts(name, endpoint, folder).items():
                bounds = "no bounds yet" if one.low is None else f"bounds {one.low:+.5f} to {one.high:+.5f}"
                outputs.say(
                    f"{name}, {arm} − {REFERENCE}, {endpoint}: {one.verdict} after {one.n} seeds; "
                    f"mean {one.mean:+.5f}, e-values {one.above:.3g} above and {one.below:.3g} below, {bounds}"
                )


def _rates() -> int:
    for name in (name for name, of in OWN_BEST.items() if of.chosen):
        for arm, scores in best_rates(name).items():
            words = ", ".join(f"{rate:g}: {score:.4f}" for rate, score in sorted(scores.items()))
            outputs.say(f"{name}, {arm}: {max(scores, key=scores.get):g} of {words}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command: the runs, or with `--rates` alone what the old records chose."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["--rates"]:
        return cli.guarded(_rates)
    program = "python -m experiments.own_best_rate"
    return cli.guarded(lambda: _run(cli.parse(command.Arguments, program, words, about=command.subject(__doc__))))


if __name__ == "__main__":
    raise SystemExit(main())
