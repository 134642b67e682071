"""§4.4 where a run takes a second, on other images than digits: ALLoRA against LoRA on MNIST and on CIFAR-10.

As in `s4_4_laboratory`, whose rule and margins these rows share: the rows read the tables of `python -m
experiments.laboratory --data NAME --part lead`, which states networks, data and rules. Checked by
`tests/test_claims_laboratory_elsewhere.py`, which plants differences.
"""

from pathlib import Path

from allora_analysis.claims.cases import Cases
from allora_analysis.claims.claim import Finding
from allora_analysis.claims.s4_4_laboratory import OWN_RATES, at_a_length_or_equal, averaged, laboratory_claim
from allora_analysis.laboratory.design import elsewhere


@laboratory_claim(
    "4-better-than-lora-mnist",
    where="beyond the paper: Abstract, on a small network",
    says="On MNIST, too, ALLoRA is more accurate than LoRA.",
    reading="As 4-better-than-lora-laboratory, on one network pretrained on MNIST's digits 0 to 4 and adapted to 5 to "
    "9, 4,861 test images: ALLoRA at η² = 4 minus LoRA, each at its best rate, no dropout, on average over SGD, "
    f"momentum and AdamW, after 50 steps or 300; {OWN_RATES}; rules written before the runs. MNIST's own controls make "
    "the margin; excluded is what lies beyond it and the 90 % interval. Looked at afterwards: after 300 steps the "
    "interval is within ±0.3 points, which the laboratory's rule calls equivalent, though under AdamW alone it is 0.26 "
    "ahead (0.06 to 0.47) and under SGD 0.35 behind (0.15 to 0.56); after 50 it is, too, where one method against "
    "itself differs by more; with one rate for all seeds it is 0.53 and 0.42 ahead, where one method may be 0.97 and "
    "0.47 from itself.",
    command="python -m experiments.laboratory --data mnist --data-root FOLDER --part lead",
    test="tests/test_claims_laboratory_elsewhere.py",
    depends_on=("4-better-than-lora-laboratory",),
)
def better_than_lora_on_mnist(cases: Cases, folder: Path | None) -> Finding:
    """ALLoRA minus LoRA under SGD, momentum and AdamW, after few steps and many, on MNIST."""
    pairs, controls = ({one.name: one for one in elsewhere(question)} for question in ("rule", "control"))
    answers = {
        "refuted": "No: {by_length}.",
        "holds": "Yes: {by_length}.",
        "undecided": "Undecided on MNIST: {by_length}; leads above {most} points are excluded.",
    }
    return averaged(cases, folder, pairs, answers, data="mnist", controls=controls)


@laboratory_claim(
    "4-better-than-lora-cifar10",
    where="beyond the paper: Abstract, on a small network",
    says="On CIFAR-10, too, ALLoRA is more accurate than LoRA.",
    reading="As 4-better-than-lora-mnist, on one network pretrained on CIFAR-10's first five classes and adapted to "
    "the others, 5,000 test images, CIFAR-10's own controls. A rule written before its runs, which unlike MNIST's "
    "refutes the sentence, too, where no length's mean over optimizers is clear, and the 90 % intervals of both, and "
    "one method against itself in them, are within ±0.3 points.",
    command="python -m experiments.laboratory --data cifar10 --data-root FOLDER --part lead",
    test="tests/test_claims_laboratory_elsewhere.py",
    depends_on=("4-better-than-lora-mnist",),
)
def better_than_lora_on_cifar10(cases: Cases, folder: Path | None) -> Finding:
    """ALLoRA minus LoRA under SGD, momentum and AdamW, after few steps and many, on CIFAR-10."""
    pairs, controls = ({one.name: one for one in elsewhere(question)} for question in ("rule", "control"))
    answers = {
        "refuted": "No, on CIFAR-10: {equal}{by_length}.",
        "holds": "Yes, on CIFAR-10: {by_length}.",
        "undecided": "Undecided on CIFAR-10: {by_length}; leads above {most} are excluded.",
    }
    return averaged(cases, folder, pairs, answers, data="cifar10", controls=controls, rule=at_a_length_or_equal)
