"""The ledger: each statement of the paper with a verdict that a check computes from evidence.

A claim stands above its check in its section's file (`claim.claim`); its verdict follows from cases or from a test
(`cases.Cases`), and nothing here or there types one in. Checked by `tests/test_ledger.py` and
`tests/test_ledger_processes.py`.
"""

import contextlib
import difflib
import functools
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import active_children, get_context
from pathlib import Path
from types import ModuleType

from allora_analysis.claims import SECTIONS
from allora_analysis.claims.cases import Cases
from allora_analysis.claims.claim import Claim, Finding
from allora_analysis.study import sweep
from allora_analysis.validation import ArgumentError, several


@dataclass(frozen=True)
class Row:
    """A claim with its finding; `error` instead where the check itself raised (an error of the toolkit)."""

    claim: Claim
    finding: Finding | None
    error: str | None = None


def _folder(results: Path | None, study: str | None) -> Path | None:
    # A study's records are in a folder of its name, as in this repository, or in `results` itself.
    if results is None or study is None:
        return None
    return results / study if (results / study).is_dir() else results


def examine(claim: Claim, results: Path | None = None, seed: int = 0) -> Row:
    """Runs one claim's check and times it; an exception becomes the row's error.

    `results` is the folder of records for a check that reads some; None for the committed ones.
    """
    start = time.perf_counter()
    folder = _folder(results, claim.reads)
    arguments = [Cases(seed, claim.id)] if claim.reads is None else [Cases(seed, claim.id), folder]
    try:
        finding = claim.check(*arguments)
    except Exception as error:  # the ledger still prints the rest; the command line exits 1
        if folder is not None and isinstance(error, ArgumentError | LookupError):
            why = error if isinstance(error, ArgumentError) else f"a record lacks {error}, which {claim.id} reads"
            raise ArgumentError(f"--results {results}: {why}") from None
        return Row(claim, None, f"{type(error).__name__}: {error}")
    return Row(claim, replace(finding, evidence=replace(finding.evidence, seconds=time.perf_counter() - start)))


def _of(module: ModuleType) -> tuple[Claim, ...]:
    # The claims written in a section's file, in its order.
    own = (item for item in vars(module).values() if isinstance(item, Claim))
    return tuple(item for item in own if item.check.__module__ == module.__name__)


def all_claims() -> tuple[Claim, ...]:
    """Every claim in the paper's order."""
    modules = (importlib.import_module(f"allora_analysis.claims.{name}") for name in SECTIONS)
    claims = tuple(claim for module in modules for claim in _of(module))
    if len({claim.id for claim in claims}) != len(claims):
        raise ValueError("two claims share an id")
    return claims


def select(claims: Sequence[Claim], only: Sequence[str] | None, flag: str = "--only") -> tuple[Claim, ...]:
    """The claims named by id or by section, in the ledger's order.

    A section is the part of an id before its first dash; `flag` is what the caller asked with, for the error.
    """
    if only is None:
        return tuple(claims)
    names = several(flag, only)
    known = {claim.id for claim in claims} | {claim.section for claim in claims}
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.3)
            hint = f"did you mean {', '.join(close)}?" if close else "--list shows the ids"
            raise ArgumentError(f"{flag}: unknown {'section' if flag == '--section' else 'claim id'} {name!r}; {hint}")
    return tuple(claim for claim in claims if claim.id in names or claim.section in names)


def supports(claims: Sequence[Claim]) -> dict[str, tuple[str, ...]]:
    """Which claims rest on each: the inverse of `depends_on`."""
    known = {claim.id for claim in claims}
    if missing := {one for claim in claims for one in claim.depends_on} - known:
        raise ValueError(f"claims rest on ids that the ledger does not have: {', '.join(sorted(missing))}")
    return {name: tuple(claim.id for claim in claims if name in claim.depends_on) for name in known}


MANY = 12  # claims from which a second process pays


def run(claims: Sequence[Claim], results: Path | None = None, seed: int = 0) -> tuple[list[Row], bool]:
    """Runs the checks, on as many processes as there are cores where they are many.

    Args:
        claims: the claims to check.
        results: the folder of records; None for the committed ones.
        seed: of every draw of cases.

    Returns:
        The rows that were finished, in order, and whether Ctrl-C came before the last.
    """
    workers = min(_cores(), 4)
    if workers == 1 or len(claims) < MANY:
        return sweep(claims, lambda claim: examine(claim, results, seed), "claims checked")
    others = set(active_children())
    with _pool(workers) as pool:
        files: dict[str, list[str]] = {}
        for claim in claims:
            files.setdefault(claim.check.__module__, []).append(claim.id)
        # The rows of a file share what they compute, so one process has them all.
        with _ctrl_c_ignored():
            waiting = {name: pool.submit(_examine, ids, results, seed) for name, ids in files.items()}

        @functools.cache
        def of_file(name: str) -> dict[str, tuple[Finding | None, str | None]]:
            try:
                return waiting[name].result()
            except BrokenExecutor:  # a process was ended, this file's or another's
                return _anew(files[name], results, seed)

        try:
            return sweep(claims, lambda claim: Row(claim, *of_file(claim.check.__module__)[claim.id]), "claims checked")
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            if not all(one.done() for one in waiting.values()):  # after Ctrl-C nobody waits for what they are at
                for worker in set(active_children()) - others:
                    worker.terminate()


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=get_context(_start()), initializer=_one_thread)


def _start() -> str:
    # Forked, they share what is imported, torch too; what has threads, torch's own perhaps, cannot be forked.
    if sys.platform != "linux" or threading.active_count() > 1 or "torch" in sys.modules:
        return "spawn"
    import torch  # noqa: F401

    return "fork"


ENDED = "its process was ended (killed, or no memory was left); the other rows are checked"


def _anew(ids: Sequence[str], results: Path | None, seed: int) -> dict[str, tuple[Finding | None, str | None]]:
    # In a process of their own; one by one where that is ended too, so that only the row that ends it is lost.
    try:
        with _pool(1) as pool:
            return pool.submit(_examine, ids, results, seed).result()
    except BrokenExecutor:
        if len(ids) == 1:
            return {ids[0]: (None, ENDED)}
        return {one: row for each in ids for one, row in _anew([each], results, seed).items()}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    # Ctrl-C is the parent's: a process that is started meanwhile ignores it from its first moment.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)


def _one_thread() -> None:
    # In a worker, which may have been started by another thread.
    from threadpoolctl import threadpool_limits

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = "1"
    threadpool_limits(1)


@functools.cache
def _by_id() -> dict[str, Claim]:
    return {claim.id: claim for claim in all_claims()}


def _examine(ids: Sequence[str], results: Path | None, seed: int) -> dict[str, tuple[Finding | None, str | None]]:
    rows = (examine(_by_id()[identifier], results, seed) for identifier in ids)
    return {row.claim.id: (row.finding, row.error) for row in rows}
