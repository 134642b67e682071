"""The doctor's largest stable rate against recorded learning-rate curves: `python -m experiments.stable_rates`.

**Question.** `hessian.stable_rate` says from the curvature of one batch which learning rate is the largest stable one.
Is that within a factor of 2 of where recorded runs stop training?

**Arms.** LoRA, r = α = 16, all linear layers, on rotten_tomatoes. Predicted: SGD at the start, AdamW after 20 steps at
3e-4 (its second moments are of nothing before), one batch that was not trained on, float32; 32 sentences on
all-MiniLM-L6-v2, and 8 on SmolLM2-135M, where a product takes five times as long. Recorded: LoRA's runs without dropout
by model, optimizer, schedule, clipping and rate of the classifier, wherever two rates or more are there. The classifier
is predicted too, by the same rule on its own block: where its rate is beyond its edge, no rate of A and B is stable.

**Seeds.** 0, of A, the classifier and the sentences; the recorded runs' are 0, 1, 2.
Later lists ran more seeds at single rates; they are left out, since a rate where every seed has to train fails the
more easily the more of them it has. `--every-seed` counts them: at SGD's rate 3 one of MiniLM's later seeds stays at
chance, the edge moves from 3–10 to 2–3, and that hit is lost. `experiments.unclipped`, whose seeds are its own, adds a
curve without clipping at a falling rate, whose edge is 2–4, a hit: 3 of 5 in place of 3 of 4.

**Test.** A rate trains if each recorded seed's test accuracy is above half-way from the most frequent label's share to
the curve's best mean. The edge lies between the largest rate that trains and the next one above, which does not. A hit:
the predicted rate is at least half of the first (0 if none trains) and at most twice the second. Where the largest
recorded rate trains, the curve has no edge: it counts only if the prediction is below half of that rate, as a miss.

**Stopping rule.** Eight predictions, each recorded whatever it shows. Before this was written, trials on
all-MiniLM-L6-v2 had been seen (other sentences): SGD, 7.1 at the start, 4.5 to 5.8 after 5 to 40 steps at rate 1, 0.7
to 6.3 after as many at rate 3; AdamW at 3e-4, 0.0001 after one step, 0.0088, 0.0128 and 0.0091 after 5, 20 and 40.

**Along the path.** A quadratic that is stable at the start need not be later. Unclipped, all-MiniLM-L6-v2 under SGD is
measured again after 80 steps at rate 1 and after 160 at rate 0.5, as far along: a rate above what is measured on its
own path has passed its edge. Added when the curves had been seen, and 80 chosen after a run at 1 whose loss jumps at
step 82; that at 0.5 was not seen.

**Changed since (protocol 2).** The first comparison left the classifier out: SmolLM2-135M's unclipped SGD runs, whose
classifier is at 0.001 up to rate 0.2 and at 0.1 above, were one curve, a miss (2 hits of 5). The curves had been seen
when the classifier's rule was added. It has no number that could be chosen, and was stated before its edges were
measured. Those of A and B are as before.

**Changed since (protocol 3).** Clipping was in the trial steps alone, so in Adam's second moments but not in the
curvature they divide: under clipping by a factor of 10 Adam's edge came out 10 times too low, though no step of Adam's
depends on it. Now the batch's own clipping factor s = min(1, c/‖g‖) multiplies the Hessian (`hessian.stable_rate`),
under SGD too, and each curve is predicted at its own clipping. The curves had been seen, and that all-MiniLM-L6-v2's
gradients at the start are below 1 (s = 1 under SGD). s has no number that could be chosen; it was derived, tried on the
digits laboratory's network, and this paragraph written, before any other s of these models was measured.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from allora_analysis import cli, outputs, records, study
from allora_analysis.adaptive.recipe import Recipe
from allora_analysis.doctor.edge import (
    GROWN,
    PROTOCOL,
    RESULTS,
    SEEDS,
    STUDY,
    TRIALS,
    Trial,
    compared,
    edge,
    grown,
    table,
)
from allora_analysis.validation import ArgumentError, choice, count


@dataclass(frozen=True)
class Arguments:
    """Predict the largest stable rate of a model and compare it with the recorded curves; without --model, compare."""

    model: Annotated[str | None, arg(metavar="FOLDER|FILE.gguf|HUB_ID")] = None
    """The pretrained model of a prediction that is not recorded."""
    data: Annotated[str | None, arg(metavar="FOLDER|HUB_ID")] = None
    """train.jsonl and test.jsonl (or .jsonl.gz), rows with text and label."""
    model_name: str | None = None
    """What records call the model: all-MiniLM-L6-v2 or SmolLM2-135M; default: as the folder."""
    only: Annotated[tuple[str, ...], arg(metavar="[WORD ...]", help_behavior_hint="")] = ()
    """Only predictions of the model under these optimizers: adamw, sgd."""
    seeds: int = 1
    """Predictions of this many seeds, from 0; the list, which is compared, has one."""
    results: Annotated[Path, arg(metavar="FOLDER")] = RESULTS
    """Where the predictions are recorded; default: experiments/results/stable_rates of this repository."""
    every_seed: bool = False
    """Count every recorded seed, also those that were run at one rate alone."""
    dry_run: bool = False
    """List the predictions of the model, and which of them are recorded, and make none."""


def predict(trial: Trial, model: str, data: str, results: Path, digests: Mapping[str, str]) -> dict[str, Any]:
    """A trial's prediction, measured on a model and data that lie here, or found recorded by their digests."""
    if (known := records.lookup(results, STUDY, trial, PROTOCOL, digests)) is not None:
        return known.result
    begun = time.perf_counter()
    recipe = Recipe(trial.rank, float(trial.rank), trial.rate, trial.optimizer)
    found = edge(
        model, data, recipe, steps=trial.steps, batch_size=trial.batch_size, head_lr=trial.head_rate, clip=trial.clip,
        seed=trial.seed,
    )  # fmt: skip
    result = dataclasses.asdict(found)
    facts = records.provenance(("transformers", "peft"), begun)
    records.save(results, STUDY, trial, result, protocol=PROTOCOL, digests=digests, provenance=facts)
    return result


def chosen(arguments: Arguments, name: str) -> list[Trial]:
    """The predictions asked for of a model, by what records call it."""
    for word in arguments.only:
        choice("--only", word, tuple(dict.fromkeys(one.optimizer for one in TRIALS)))
    seeds, only = range(count("--seeds", arguments.seeds)), arguments.only
    own = [one for one in (*TRIALS, *GROWN) if one.model == name and (not only or one.optimizer in only)]
    if not own:
        names = ", ".join(dict.fromkeys(one.model for one in TRIALS))
        raise ArgumentError(f"--model-name must be one of {names}, received {name!r}")
    return [dataclasses.replace(one, seed=seed) for seed in seeds for one in own]


def _words(one: Trial) -> str:
    clip = f"clipped at {one.clip:g}" if one.clip else "unclipped"
    return f"{one.model}, {one.optimizer}, {clip}, {one.steps} steps at {one.rate:g}, seed {one.seed}"


ASKED = ("data", "model_name", "only", "seeds", "dry_run")  # of a model's predictions


def run(arguments: Arguments) -> int:
    """Predict what is asked for, then print every comparison that is recorded.

    Raises:
        ArgumentError: a model without its data, or of another name than the curves'; its flags without a model.
    """
    if arguments.model is not None:
        from allora_analysis.finetune import data as texts
        from allora_analysis.finetune import sources

        if arguments.data is None:
            raise ArgumentError("--data: missing; a folder of train.jsonl and test.jsonl with text and label")
        outputs.refuse_file("--results", arguments.results)
        trials = chosen(arguments, arguments.model_name or sources.name_of(arguments.model))
        data_digest = texts.load(arguments.data, trials[0].data).digest
        digests = sources.digests(arguments.model, data_digest, arguments.dry_run)
        if arguments.dry_run:
            known = records.known(arguments.results, STUDY, PROTOCOL, trials, digests)
            outputs.list_runs(map(_words, trials), known)
            return 0
        outputs.check_folder("--results", arguments.results)
        with cli.goes_on():
            for trial in trials:
                predict(trial, arguments.model, arguments.data, arguments.results, digests)
    elif given := [name for name in ASKED if getattr(arguments, name) != getattr(Arguments, name)]:
        flag = "--" + given[0].replace("_", "-")
        raise ArgumentError(
            f"{flag}: is for the predictions of a model, which --model names; name one, or leave it out"
        )
    elif not arguments.results.is_dir():
        raise ArgumentError(f"--results {arguments.results}: is not a folder; name one that predictions are in")
    seeds = None if arguments.every_seed else SEEDS
    outputs.tell(lambda: study.show(table(compared(arguments.results, seeds=seeds))))
    for one, rate in grown(arguments.results).items():
        outputs.say(f"{one.model}, {one.optimizer}, unclipped: {rate:.2g} after {one.steps} steps at {one.rate:g}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The experiment's command."""
    name = "python -m experiments.stable_rates"
    return cli.guarded(lambda: run(cli.parse(Arguments, name, argv)))


if __name__ == "__main__":
    raise SystemExit(main())
