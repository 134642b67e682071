"""§4.4 on a second data set where a run takes a second: ALLoRA against LoRA on MNIST, with 4,861 test images.

The row reads the table of `python -m experiments.laboratory --data mnist`, whose docstring states the rules, written
before the runs; it is judged as `4-better-than-lora-laboratory` is. Checked by `tests/test_claims_laboratory_mnist.py`,
which plants differences.
"""

from pathlib import Path

from allora_analysis.claims.cases import Cases
from allora_analysis.claims.claim import Finding, claim
from allora_analysis.claims.s4_4_laboratory import averaged
from allora_analysis.laboratory.design import on_mnist
from allora_analysis.laboratory.table import STUDY


@claim(
    "4-better-than-lora-mnist",
    where="beyond the paper: Abstract, on a small network",
    says="On MNIST, too, ALLoRA is more accurate than LoRA.",
    reading="As 4-better-than-lora-laboratory, on one network pretrained on MNIST's digits 0 to 4 and adapted to 5 to "
    "9, 4,861 test images: ALLoRA at η² = 4 minus LoRA, each at its best rate, no dropout, on average over SGD, "
    "momentum and AdamW, after 50 steps or 300; rules written before the runs. MNIST's own controls make the margin.",
    command="python -m experiments.laboratory --data mnist --data-root FOLDER --part lead",
    test="tests/test_claims_laboratory_mnist.py",
    reads=STUDY,
    depends_on=("4-better-than-lora-laboratory",),
)
def better_than_lora_on_mnist(cases: Cases, folder: Path | None = None) -> Finding:
    """ALLoRA minus LoRA under SGD, momentum and AdamW, after few steps and many, on MNIST."""
    pairs, controls = ({one.name: one for one in on_mnist(question)} for question in ("rule", "control"))
    answers = {
        "refuted": "No, averaged over optimizers: {by_length_of_least}.",
        "holds": "Yes, averaged over optimizers: {by_length_of_least}.",
        "undecided": "Undecided on MNIST: {by_length}; one method against itself: {margins}.",
    }
    return averaged(cases, folder, pairs, answers, data="mnist", controls=controls)
