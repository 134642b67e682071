"""Records survive kills at any moment, full disks, refusals and many writers at once; a run's lock has one holder, is
released by death, and leaves nothing behind.
"""

import errno
import fcntl
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from allora_analysis import records
from allora_analysis.records import files
from allora_analysis.records.files import Busy, hold
from allora_analysis.records.record import RecordError
from tests.toy_run import save, spoil

WRITER = """
import os, signal, sys
from allora_analysis import records
from allora_analysis.records import files
folder, moment = sys.argv[1:]
kill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
real_link = os.link
if moment == "in the middle of the write":
    write = files._write
    def half(path, content):
        path.write_bytes(content[: len(content) // 2])
        kill()
    files._write = half
elif moment == "between write and link":
    files._place = kill
elif moment == "after the link":
    files._sync_folder = kill
records.save(folder, "finetune", {"x": 1}, {"y": 2}, protocol=1)
"""
HOLD = "import sys, time; from pathlib import Path; from allora_analysis.records.files import hold\n"
HOLD += "with hold(Path(sys.argv[1]), 'it'): print('held', flush=True); time.sleep(60)"


@pytest.mark.parametrize("moment", ["in the middle of the write", "between write and link", "after the link"])
def test_kill_9_leaves_a_whole_record_or_none(tmp_path, moment):
    finished = subprocess.run([sys.executable, "-c", WRITER, str(tmp_path), moment], capture_output=True)
    assert finished.returncode == -signal.SIGKILL, finished.stderr
    parts = list(tmp_path.glob(".*.part"))
    assert len(parts) == 1
    whole = moment == "after the link"
    assert len(records.find(tmp_path)) == whole
    # The same command again: one record, none lost, none twice.
    assert save(tmp_path, {"x": 1}, {"y": 2}).written is not whole
    assert [record.result for record in records.find(tmp_path)] == [{"y": 2}]
    assert records.status(tmp_path, {"finetune": 1}).cleaned == ()
    os.utime(parts[0], (0, 0))
    assert records.status(tmp_path, {"finetune": 1}).cleaned == (parts[0].name,)
    assert [record.result for record in records.find(tmp_path)] == [{"y": 2}]


CROWD = """
import sys, time
from allora_analysis import records
folder, who, start = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
time.sleep(max(0.0, start - time.time()))
for run in range(40):
    result = {"writer": who, "filler": "x" * 20000}
    saved = records.save(folder, "crowd", {"run": run}, result, protocol=1, provenance={})
    if saved.written:
        print(run)
    records.save(folder, "crowd", {"own": who, "run": run}, {"writer": who}, protocol=1, provenance={})
    assert all(r.result["writer"] in (0, 1, 2) for r in records.find(folder))
"""


def test_three_processes_at_once_lose_nothing_tear_nothing_and_record_each_run_once(tmp_path):
    start = str(time.time() + 1.5)
    crowd = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", CROWD, str(tmp_path), str(who), start],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for who in range(3)
    ]
    outputs = [process.communicate(timeout=60) for process in crowd]
    assert [process.returncode for process in crowd] == [0, 0, 0], outputs
    written = sorted(int(line) for out, _ in outputs for line in out.split())
    assert written == list(range(40))  # each shared run was written by exactly one
    assert len(records.find(tmp_path)) == 40 + 3 * 40
    assert not list(tmp_path.glob(".*"))


def test_many_who_find_one_torn_file_set_it_aside_once_and_save_once(tmp_path):
    for _ in range(10):
        path, _ = save(tmp_path)
        spoil(path)
        with warnings.catch_warnings(), ThreadPoolExecutor(8) as pool:
            warnings.simplefilter("ignore", records.SetAsideWarning)
            outcomes = list(pool.map(lambda _: save(tmp_path), range(8)))
        assert sum(outcome.written for outcome in outcomes) == 1
        records.load(path)
        path.unlink()
    assert len(list((tmp_path / "set_aside").iterdir())) == 1  # one content, one name


@pytest.mark.bad_input
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("call", ["open", "fsync", "link"])
def test_no_room_or_no_permission_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, number, call):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(files.os, call, fail)
        with pytest.raises(records.RecordError, match="finetune-") as error:
            save(tmp_path)
    assert os.strerror(number) in str(error.value)
    assert os.listdir(tmp_path) == []
    assert save(tmp_path).written


def test_a_write_that_the_system_refuses_half_way_leaves_nothing(tmp_path):
    code = (
        "import signal, sys; from allora_analysis import cli, records; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "result = {'y': 'z' * 9999};"
        "command = lambda: records.save(sys.argv[1], 's', {'x': 1}, result, protocol=1, provenance={}) and 0;"
        "sys.exit(cli.guarded(command))"
    )

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    finished = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, preexec_fn=limit
    )
    assert finished.returncode == 2
    assert finished.stderr.count("\n") == 1
    assert "not recorded (File too large)" in finished.stderr
    assert os.listdir(tmp_path) == []


def test_without_hard_links_the_file_is_renamed_into_place(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(files.os, "link", no_links)
    first, second = save(tmp_path), save(tmp_path)
    assert (first.written, second.written) == (True, False)
    assert files.write_once(first.path, b"late") is False
    assert os.listdir(tmp_path) == [records.load(first.path).path.name]


def test_an_unreadable_file_is_an_error_and_is_not_set_aside(tmp_path, monkeypatch):
    path, _ = save(tmp_path)

    def refuse(self):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        for call in (lambda: records.find(tmp_path), lambda: records.load(path), lambda: save(tmp_path)):
            with pytest.raises(records.RecordError, match="cannot be read") as error:
                call()
            assert not isinstance(error.value, records.TornRecord)
    assert os.listdir(tmp_path) == [path.name]


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
