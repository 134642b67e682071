"""What a run is told under Python's own filters, in processes of their own: pytest's show what a user never sees."""

import os
import subprocess
import sys

import jaxtyping
import pytest

from allora_analysis.lora.callback import DoctorCallback
from allora_analysis.validation import ArgumentError
from tests.test_lora_doctor import twins
from tests.test_lora_doctor_live import examined

CASES = """
import sys, tempfile, warnings
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainingArguments
from allora_analysis.lora.callback import DoctorCallback
from allora_analysis.lora.optim import ALLoRAAdamW, param_groups
from allora_analysis.lora.peft import allora_config
from allora_analysis.lora.watch import FactorUndone
from tests.test_lora_warnings import without_init
from tests.tiny_peft_models import QWEN_TARGETS, batch, qwen

rows = batch(8)
data = [{key: value[i] for key, value in rows.items()} for i in range(8)]
options = {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "max_steps": 2}
fields = {"r": 3, "target_modules": QWEN_TARGETS, "task_type": "SEQ_CLS"}

def train(case, *callbacks, model=None, optimizer=None):
    print("CASE", case, file=sys.stderr)
    model = model or get_peft_model(qwen(), allora_config(2.0, **fields))
    arguments = TrainingArguments(tempfile.mkdtemp(), **options)
    Trainer(model, arguments, train_dataset=data, callbacks=[*callbacks], optimizers=(optimizer, None)).train()

for run in range(2):
    train("nobody asks")
for run in range(2):
    train("the callback", DoctorCallback(step=1))
train("a log that fails", DoctorCallback(log=without_init))
models = [get_peft_model(qwen(), LoraConfig(**fields)) for _ in range(2)]
train("another model's groups", model=models[0], optimizer=ALLoRAAdamW(param_groups(models[1]), 1e-3, 2.0))
warnings.simplefilter("ignore", FactorUndone)
train("a filter of one's own")
"""


def without_init(numbers):
    raise RuntimeError("you must call init\nbefore log")


@pytest.fixture(scope="module")
def told() -> dict[str, list[str]]:
    """The warnings of each case, in a process that no filter was changed in."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHONWARN")}
    run = subprocess.run([sys.executable, "-c", CASES], capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    found: dict[str, list[str]] = {}
    for line in run.stderr.splitlines():
        if line.startswith("CASE "):
            case = found.setdefault(line.removeprefix("CASE "), [])
        elif "ALLoRA" in line or "DoctorCallback" in line:
            case.append(line)
    return found


def test_the_trainer_shows_that_its_optimizer_undoes_the_factor_in_each_run(told):
    """Planted: accelerate ignores what is warned of from torch's lr_scheduler; and a text was shown once a process."""
    found = told["nobody asks"]
    assert [line.partition("ALLoRA is OFF: ")[2].partition(" ")[0] for line in found] == ["AdamW"] * 2
    assert all(line.startswith("<string>:") and "FactorUndone: " in line for line in found)


def test_a_users_filter_stays_in_front(told):
    assert told["a filter of one's own"] == []


def test_the_callback_tells_each_run(told):
    found = told["the callback"]
    assert [line.partition("UserWarning: ")[2][:23] for line in found] == ["ALLoRA is OFF (step 0):"] * 4


def test_a_log_that_fails_hides_nothing(told):
    """Planted: the doctor was said to have failed, and nothing that ALLoRA was off."""
    found = told["a log that fails"]
    assert ["is OFF (step" in line for line in found] == [True, False] * 2
    said = "the log that DoctorCallback was given failed at step {} (RuntimeError: you must call init); training goes"
    assert all(said.format(step) in line for step, line in enumerate(found[1::2]))


@pytest.mark.bad_input
@pytest.mark.parametrize("log", [True, "wandb", 1.0])
def test_a_log_is_a_function(log, request):
    error = ArgumentError if request.config.option.untyped else jaxtyping.TypeCheckError
    with pytest.raises(error) as caught:
        DoctorCallback(log=log)
    if error is ArgumentError:
        assert str(caught.value) == f"log must be a function of the numbers, as trainer.log is, received {log!r}"


def test_a_log_that_fails_takes_no_diagnosis_away():
    callback = DoctorCallback(step=1, log=without_init)
    with pytest.warns(UserWarning, match="given failed at step 0") as found:
        examined(callback, twins()[0].float())
    assert len(found) == 1
    assert callback.diagnoses[0].verdict == "on"


def test_an_optimizer_of_another_models_groups_is_named_in_the_trainer(told):
    (found,) = told["another model's groups"]
    assert "no parameter of its groups has a gradient, so this step trains nothing; are they another model's" in found
