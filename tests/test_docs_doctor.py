"""docs/doctor.md: twelve questions, ten with a thread, and what its commands and code print today."""

import re

import pytest

pytest.importorskip("peft")

from docs import doctor

TEXT = doctor.PAGE.read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT's own, under a new transformers
def test_every_answer_is_what_the_command_prints_today():
    assert doctor.rewritten(TEXT) == TEXT


def test_there_are_twelve_questions_ten_with_a_thread_each_with_an_answer():
    questions = re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]
    assert [question.partition(".")[0] for question in questions] == [str(n) for n in range(1, 13)]
    for question in questions[:10]:
        assert re.search(r"\[[\w./-]+#\d+\]\(https://github\.com/[\w.-]+/[\w.-]+/(issues|pull)/\d+\)", question)
    for question in questions:
        assert doctor.BLOCK.search(question)
        assert re.search(r"```(sh|python)", question)
    assert len(re.findall("```(?:sh|python)", TEXT)) == len(doctor.BLOCK.findall(TEXT))


def test_a_stale_answer_is_written_anew_and_a_command_that_fails_is_refused():
    block = "```sh\npython -m allora_analysis.doctor --gap 0.5 --sd 0.6\n```\n\n```text\nold\n```\n"
    assert "standard deviation of 0.60" in doctor.rewritten(block)
    with pytest.raises(ValueError, match="one that fails"):
        doctor.rewritten(block.replace("--sd 0.6", "--sd 0"))
    with pytest.raises(ValueError, match="no command of the doctor"):
        doctor.rewritten(block.replace("python -m", "rm"))
