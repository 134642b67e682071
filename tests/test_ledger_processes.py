"""The ledger in several processes: they find what one does, end with it, and lose only their own rows."""

import signal
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import active_children
from types import SimpleNamespace

import pytest

from allora_analysis.claims import ledger
from allora_analysis.study import plain
from tests import ledger_workers

CLAIMS = {one.id: one for one in ledger.all_claims()}


def test_several_processes_find_what_one_does(monkeypatch):
    claims = [CLAIMS[name] for name in ("3.2-gradient", "3.3-norm", "3.3-constant")]  # of two files
    monkeypatch.setattr(ledger, "MANY", 2)
    monkeypatch.setattr(ledger, "_cores", lambda: 2)
    rows, interrupted = ledger.run(claims, seed=3)
    assert not interrupted
    for row, one in zip(rows, claims, strict=True):
        alone = ledger.examine(one, seed=3)
        assert row.claim is one
        assert (row.finding.verdict, plain(row.finding.evidence.measured)) == (
            alone.finding.verdict,
            plain(alone.finding.evidence.measured),
        )


@pytest.mark.parametrize(
    ("platform", "imported", "threads", "start"),
    [
        ("linux", (), 1, "fork"),
        ("linux", (), 2, "spawn"),
        ("linux", ("torch",), 1, "spawn"),
        ("darwin", (), 1, "spawn"),
    ],
)
def test_only_one_thread_of_linux_forks_and_none_that_torch_may_have_started(
    monkeypatch, platform, imported, threads, start
):
    monkeypatch.setattr(ledger, "sys", SimpleNamespace(platform=platform, modules=imported))
    monkeypatch.setattr(ledger.threading, "active_count", lambda: threads)
    assert ledger._start() == start


def test_a_process_that_is_ended_loses_its_own_row_alone(monkeypatch):
    monkeypatch.setattr(ledger, "MANY", 2)
    monkeypatch.setattr(ledger, "_cores", lambda: 2)
    monkeypatch.setattr(ledger, "_examine", ledger_workers.die)
    names = ("3.2-gradient", "3.3-constant", ledger_workers.DYING)  # the last two of one file
    rows, interrupted = ledger.run([CLAIMS[name] for name in names])
    assert not interrupted
    assert [row.error for row in rows] == ["it was run", "it was run", ledger.ENDED]


def test_ctrl_c_stops_the_workers_which_never_see_it(monkeypatch):
    """As if the key were pressed while they work for ten minutes: they end at once; started, they ignored the key."""
    seen, others = [], set(active_children())

    class Pool(ProcessPoolExecutor):
        def submit(self, *words):
            seen.append(signal.getsignal(signal.SIGINT))
            return super().submit(*words)

    def pressed(*_):
        raise KeyboardInterrupt

    for name, value in {"ProcessPoolExecutor": Pool, "_examine": ledger_workers.sleep, "sweep": pressed}.items():
        monkeypatch.setattr(ledger, name, value)
    monkeypatch.setattr(ledger, "_cores", lambda: 2)
    with pytest.raises(KeyboardInterrupt):
        ledger.run([CLAIMS["3.3-norm"]] * ledger.MANY)
    workers = set(active_children()) - others
    ends = time.monotonic() + 60  # not `join`: the pool's own thread may be just taking the exit status
    while any(worker.exitcode is None for worker in workers) and time.monotonic() < ends:
        time.sleep(0.05)
    ended = [worker.exitcode is not None for worker in workers]
    for worker in workers:
        worker.kill()
    assert all(ended)
    assert seen == [signal.SIG_IGN]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
