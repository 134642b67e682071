"""submitit's controller of a job on this machine, and the job itself, both forked from one process (`tests/warm.py`).

`python -m tests.warm_jobs FOLDER` in the place of submitit's own, which starts another Python.
"""

import multiprocessing
import os
import runpy
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from submitit.local import local

from tests import warm


class _Task(warm.Process):
    """As the `subprocess.Popen` of a job's command, `python -u -m submitit.core._submit FOLDER`."""

    def __init__(self, command: list[str], env: dict[str, str], stdout: Any, stderr: Any, **_: Any):
        super().__init__(multiprocessing.get_context("fork").Process(target=_run, args=(command, env, stdout, stderr)))


def _run(command: list[str], env: dict[str, str], *files: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.update(env)
    warm.write_to(*(file.fileno() for file in files))
    *_, module, folder = command
    sys.argv = [module, folder]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def start(monkeypatch: Any) -> None:
    """From now on, submitit's processes on this machine are forked."""

    def forked(command: list[str], shell: bool, env: dict[str, str]) -> warm.Popen:
        return warm.Popen("tests.warm_jobs", command[-1], **env)

    monkeypatch.setattr(local, "subprocess", SimpleNamespace(Popen=forked))


if __name__ == "__main__":
    local.subprocess = SimpleNamespace(Popen=_Task)
    local.Controller(Path(sys.argv[1])).run()
