"""`python -m module …` in a process of its own, forked from one that has imported what others wrote.

Those imports are five seconds of a process that trains for one; our own code starts afresh. What is about a start, not
about what runs, wants a real one (`tests/test_cli.py`).
"""

import logging
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SERVER = multiprocessing.get_context("forkserver")
OTHERS = "accelerate datasets peft safetensors.torch scipy.stats submitit tokenizers torch.distributed.fsdp "
OTHERS += "transformers.models.bert.modeling_bert transformers.trainer tyro"
SERVER.set_forkserver_preload(OTHERS.split())
# One thread, so that all numbers agree; bitsandbytes compiles nothing on import.
USERS = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TORCHDYNAMO_DISABLE": "1"}


def write_to(*descriptors: int) -> None:
    """Standard output and standard error from here on, also of the loggers that were imported."""
    for number, descriptor in enumerate(descriptors, 1):
        os.dup2(descriptor, number)
    alike = {"mode": "w", "encoding": "utf-8", "closefd": False}
    new = {sys.stdout: os.fdopen(1, **alike), sys.stderr: os.fdopen(2, buffering=1, **alike)}
    sys.stdout, sys.stderr = new.values()
    for logger in (logging.root, *logging.root.manager.loggerDict.values()):
        for handler in getattr(logger, "handlers", ()):
            if getattr(handler, "stream", None) in new:
                handler.setStream(new[handler.stream])


def _run(
    module: str, words: list[str], folder: str, environment: dict[str, str], pipes: list[Connection], most: int | None
) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [folder, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    for name in [one for one in sys.modules if one.partition(".")[0] == "tests"]:
        del sys.modules[name]
    sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in environment
    write_to(*(pipe.fileno() for pipe in pipes))
    for pipe in pipes:
        pipe.close()
    if most is not None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


class Process:
    """A process of `multiprocessing`, started, with the methods of `subprocess.Popen`."""

    def __init__(self, process: BaseProcess):
        process.start()
        self._process, self.pid = process, process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    returncode = property(poll)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float = 300) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        return self.returncode


class Popen(Process):
    """As `subprocess.Popen([sys.executable, "-m", module, *words])`, with text from pipes.

    It runs in `folder`, no file may outgrow `most` bytes, and `environment` comes on top of the test's own.
    """

    def __init__(self, module: str, *words: str, folder: Path = ROOT, most: int | None = None, **environment: str):
        pipes = [SERVER.Pipe(duplex=False) for _ in range(2)]
        whole = os.environ | USERS | environment
        with pytest.MonkeyPatch.context() as patch:  # the first call starts what is forked
            for name, value in USERS.items():
                patch.setenv(name, value)
            arguments = (module, [*words], str(folder), whole, [end for _, end in pipes], most)
            super().__init__(SERVER.Process(target=_run, args=arguments))
        self._said = ["", ""]
        for _, end in pipes:
            end.close()
        self._readers = [threading.Thread(target=self._read, args=(i, end)) for i, (end, _) in enumerate(pipes)]
        for reader in self._readers:
            reader.start()

    def _read(self, place: int, end: Connection) -> None:
        with end, open(end.fileno(), encoding="utf-8", closefd=False) as text:
            self._said[place] = text.read()

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        self.wait(timeout)
        for reader in self._readers:
            reader.join(timeout)
        return tuple(self._said)
