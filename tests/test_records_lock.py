"""The lock of a run: one holder, released by death, and nothing left behind."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from allora_analysis.records.canonical import RecordError
from allora_analysis.records.files import Busy, hold

HOLD = "import sys, time; from pathlib import Path; from allora_analysis.records.files import hold\n"
HOLD += "with hold(Path(sys.argv[1]), 'it'): print('held', flush=True); time.sleep(60)"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "unfinished" / "run.lock"


def holder(path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_one_at_a_time_and_nothing_is_left(path):
    with hold(path, "it"):
        assert path.exists()
        with pytest.raises(Busy, match="it: another process"), hold(path, "it"):
            pass
    assert not path.exists()
    with hold(path, "it"):
        pass


def test_an_exception_releases_it(path):
    with pytest.raises(ZeroDivisionError), hold(path, "it"):
        raise ZeroDivisionError
    with hold(path, "it"):
        pass


def test_another_process_holds_it_until_it_is_killed(path):
    process = holder(path)
    with pytest.raises(Busy), hold(path, "it"):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert path.exists()
    with hold(path, "it"):
        pass
    assert not path.exists()


def test_many_threads_never_hold_it_together(path):
    inside, seen, wins = [0], [], []

    def work():
        until = time.monotonic() + 2
        while time.monotonic() < until:
            try:
                with hold(path, "it"):
                    inside[0] += 1
                    seen.append(inside[0])
                    time.sleep(0.0005)
                    inside[0] -= 1
                    wins.append(1)
            except Busy:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(seen) == {1}
    assert len(wins) > 10


def test_a_neighbour_that_takes_the_empty_folder_away_does_no_harm(path, monkeypatch):
    right, taken = os.open, []

    def late(name, *more):
        if not taken:
            taken.append(path.parent.rmdir())
        return right(name, *more)

    monkeypatch.setattr(os, "open", late)
    with hold(path, "it"):
        assert path.exists()
    assert len(taken) == 1


def test_a_file_system_without_locks_is_not_a_neighbour(path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(RecordError, match=r"cannot be locked \(No locks available\)") as error, hold(path, "it"):
        pass
    assert not isinstance(error.value, Busy)
    assert not path.exists()


@pytest.mark.bad_input
def test_a_folder_that_cannot_be_made_ends_in_an_error(tmp_path):
    """A link to a disk that is not there: waiting for it would be for ever."""
    (tmp_path / "results").symlink_to(tmp_path / "gone" / "disk")
    with pytest.raises(FileExistsError), hold(tmp_path / "results" / "unfinished" / "run.lock", "it"):
        pass
