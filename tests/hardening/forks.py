"""One pytest session of many test files, and a child of it for each run: what it imports and collects, it does once.

`measure` runs every test file in a child under coverage and keeps which test runs which lines, and how long it takes,
in `.coverage_mutants/`: a file that has not changed since is not run again. `Server` then runs chosen tests in a
child whose functions were exchanged for others.
"""

import contextlib
import functools
import gc
import hashlib
import inspect
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
KEPT = ROOT / ".coverage_mutants"
OPTIONS = ("-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")
MEMORY, SECONDS = 6 * 2**30, 3.0  # what a child may take beyond its parent, and a test beyond five times its usual
UNKNOWN = 10.0  # seconds for a test that has not been measured; longer, and it tells nothing
IMPORTED = "imported"  # stands for a test: what runs when modules are imported and tests collected


def digest(*paths: Path) -> str:
    """Of files' bytes."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:12]


def sources() -> list[Path]:
    """The package's files."""
    return sorted((ROOT / "allora_analysis").rglob("*.py"))


def teller() -> Callable[[str], None]:
    """Prints on what standard error is now, whatever pytest makes of it later."""
    file = os.fdopen(os.dup(2), "w", buffering=1)
    return lambda words: print(words, file=file)


class Covering(NamedTuple):
    """Per file of the package, line and test: which test runs which line; per test, its seconds."""

    lines: dict[str, dict[int, list[str]]]
    seconds: dict[str, float]

    def tests(self, path: str, lines: Iterable[int]) -> set[str]:
        """The tests that run one of the lines of the package's file at `path`."""
        there = self.lines.get(path, {})
        return {test for line in lines for test in there.get(line, ())}


class Results:
    """Of the tests run here: those that failed or were stopped, and seconds, set-up included."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self.too_long: list[str] = []
        self.seconds: dict[str, float] = {}
        self.stopped = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what is asked for later."""
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            (self.too_long if self.stopped else self.failed).append(report.nodeid)
            self.stopped = False

    def run(
        self,
        items: Sequence[pytest.Item],
        before: Callable[[str], Any],
        most: float,
        ends: Callable[[], bool] = lambda: False,
    ) -> None:
        """The tests in this order, until `ends`, or for `most` seconds of the processor."""
        begun = time.process_time()
        for item, following in zip(items, [*items[1:], None], strict=True):
            if time.process_time() - begun > most:
                return
            before(item.nodeid)
            item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
            if ends():
                return


def session(files: Sequence[str], loop: Callable[[pytest.Session, Results], None]) -> None:
    """Collect the files' tests and hand them over; one without an error in collection."""
    from hypothesis import HealthCheck, Phase, settings

    settings.register_profile(
        "mutants", deadline=None, derandomize=True, database=None, phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    settings.load_profile("mutants")
    results = Results()

    class Loop:
        @pytest.hookimpl(tryfirst=True)
        def pytest_runtestloop(self, session: pytest.Session) -> bool:
            assert not session.testsfailed, "a test file cannot be collected"
            loop(session, results)
            return True

    with open(KEPT / "session.txt", "w", encoding="utf-8") as words:  # what pytest and the tests print
        os.dup2(words.fileno(), 1)
        status = pytest.main([*OPTIONS, *(f"tests/{name}" for name in files)], plugins=[results, Loop()])
    assert status in (0, pytest.ExitCode.NO_TESTS_COLLECTED), f"pytest ends with {status}"


def by_file(items: Iterable[pytest.Item]) -> dict[str, list[pytest.Item]]:
    """The tests of each file, in order."""
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.nodeid.partition("::")[0].removeprefix("tests/"), []).append(item)
    return files


class TooLong(BaseException):
    """Stops a test, which catches an Exception perhaps."""


class Limits:
    """Stops a set-up and a test after so many seconds of the processor, or ten times as many of the clock."""

    def __init__(self, results: Results, seconds: Callable[[str], float]) -> None:
        self.results, self.seconds = results, seconds
        for which in (signal.SIGPROF, signal.SIGALRM):
            signal.signal(which, self._stop)

    def _stop(self, *_: Any) -> None:
        self.results.stopped = True
        raise TooLong

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
        """Within the limits."""
        with self._limited(self.seconds(item.nodeid)):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        """Within the limits."""
        with self._limited(self.seconds(item.nodeid)):
            return (yield)

    @contextlib.contextmanager
    def _limited(self, seconds: float) -> Iterator[None]:
        timers = {signal.ITIMER_PROF: seconds, signal.ITIMER_REAL: 20 * seconds}
        for which, most in timers.items():
            signal.setitimer(which, most)
        try:
            yield
        finally:
            for which in timers:
                signal.setitimer(which, 0)


def measure(files: Sequence[str], told: Callable[[str], Any], quick: float) -> None:
    """Run those of the files that changed since they were last run, and keep what they cover.

    A test that takes longer than `quick` seconds of the processor is stopped and counts as one that failed; of a file
    that takes longer than ten times that, the rest is left out. To be called in a process that has not imported the
    package: what its import runs is kept too.
    """
    from coverage import Coverage

    KEPT.mkdir(exist_ok=True)
    state = digest(*sources())
    keys = {name: f"{state} {digest(ROOT / 'tests' / name)}" for name in files}
    kept = {name: _kept(name) for name in files}
    wanted = [name for name in files if kept[name].get("key") != keys[name] or kept[name]["quick"] < quick]

    def coverage(name: str) -> Coverage:
        where = KEPT / f"{name}.coverage"
        where.unlink(missing_ok=True)
        return Coverage(data_file=str(where), branch=True, source=[str(ROOT / "allora_analysis")], config_file=False)

    def loop(session: pytest.Session, results: Results) -> None:
        if fresh:
            imports.stop()
            imports.save()
            (KEPT / f"{IMPORTED}.json").write_text(json.dumps({"key": state}), encoding="utf-8")
        there = by_file(session.items)
        for done, name in enumerate(wanted, 1):
            items = there.get(name, [])
            pid = os.fork()
            if not pid:
                status = 1
                try:
                    measured = coverage(name)
                    measured.start()
                    session.config.pluginmanager.register(Limits(results, lambda _: quick))
                    results.run(items, measured.switch_context, 10 * quick)
                    measured.stop()
                    measured.save()
                    kept = {"key": keys[name], "quick": quick}
                    kept |= {"seconds": results.seconds, "failed": results.failed + results.too_long}
                    (KEPT / f"{name}.json").write_text(json.dumps(kept), encoding="utf-8")
                    status = 0
                finally:
                    os._exit(status)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            kept = _kept(name)
            words = f"{sum(kept.get('seconds', {}).values()):.0f} s, too long or failed: {len(kept.get('failed', ()))}"
            told(f"{done} of {len(wanted)}: {name}: " + (words if status == 0 else f"ended with {status}"))

    fresh = _kept(IMPORTED).get("key") != state
    if fresh:
        imports = coverage(IMPORTED)
        imports.start()
        imports.switch_context(IMPORTED)
    if fresh or wanted:
        session(files if fresh else wanted, loop)


def _kept(name: str) -> dict[str, Any]:
    path = KEPT / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def seconds(files: Sequence[str]) -> dict[str, float]:
    """Of each test that passed when it was measured."""
    kept = [_kept(name) for name in files]
    return {test: spent for one in kept for test, spent in one.get("seconds", {}).items() if test not in one["failed"]}


def covering(files: Sequence[str], paths: Iterable[str]) -> Covering:
    """What was kept of these test files, for these files of the package; tests that failed are left out."""
    from coverage import CoverageData

    KEPT.mkdir(exist_ok=True)
    lines, passed = {path: {} for path in paths}, seconds(files)
    for name in (IMPORTED, *files):
        data = CoverageData(basename=str(KEPT / f"{name}.coverage"))
        data.read()
        for path, there in lines.items():
            for line, tests in data.contexts_by_lineno(str(ROOT / "allora_analysis" / path)).items():
                there.setdefault(line, []).extend(test for test in tests if test in passed or test == IMPORTED)
    return Covering(lines, passed)


def _functions(code: CodeType) -> list[CodeType]:
    # The functions that a module's or a class's code makes, in order; not those within functions.
    found = []
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found += [constant] if constant.co_flags & 1 else _functions(constant)  # 1: CO_OPTIMIZED, a function's
    return found


@functools.cache
def _functions_of(loader: Any, plain: str, file: str) -> tuple[list[CodeType], list[CodeType]]:
    # Of the plain source, and of the file itself.
    sources = plain.encode(), Path(file).read_bytes()
    one, other = (_functions(loader.source_to_code(source, file)) for source in sources)
    return one, other


class Exchange(NamedTuple):
    """One function's code for another's: the file, the function's name and first line there, its new code."""

    file: str
    name: str
    line: int
    code: CodeType


def _module(path: str) -> ModuleType:
    return sys.modules["allora_analysis." + path.removesuffix(".py").replace("/", ".")]


def exchange(path: str, plain: str, mutated: str) -> Exchange | None:
    """The one function that differs between two sources of a module; None where other code than functions' does.

    `plain` is the module's source in the same layout as `mutated`, which may be another layout than the file's.
    """
    module = _module(path)
    one, there = _functions_of(module.__spec__.loader, plain, module.__file__)
    other = _functions(module.__spec__.loader.source_to_code(mutated.encode(), module.__file__))
    differ = [place for place, codes in enumerate(zip(one, other, strict=True)) if codes[0] != codes[1]]
    if len(differ) != 1:
        return None
    name, line = there[differ[0]].co_qualname, there[differ[0]].co_firstlineno
    if sum((code.co_qualname, code.co_firstlineno) == (name, line) for code in there) > 1:
        return None
    return Exchange(module.__file__, name, line, other[differ[0]])


def unchanged(path: str, name: str) -> Exchange:
    """A function's own code: what must survive."""
    module = _module(path)
    code = inspect.unwrap(getattr(module, name)).__code__
    return Exchange(module.__file__, code.co_qualname, code.co_firstlineno, code)


class Server:
    """Runs tests of a session in children whose functions were exchanged."""

    def __init__(self, session: pytest.Session, results: Results, measured: dict[str, float]) -> None:
        self.session, self.results, self.measured = session, results, measured
        self.tests = [item.nodeid for item in session.items]
        self.live: dict[tuple[str, str, int], list[FunctionType]] = {}
        gc.unfreeze()  # what the suite's collection froze is not among a collector's objects
        for thing in gc.get_objects():
            if type(thing) is FunctionType and "/allora_analysis/" in thing.__code__.co_filename:
                code = thing.__code__
                self.live.setdefault((code.co_filename, code.co_qualname, code.co_firstlineno), []).append(thing)
        gc.collect()
        gc.freeze()

    def functions(self, change: Exchange | None) -> list[FunctionType]:
        """Those in memory that a change is of."""
        return [] if change is None else self.live.get((change.file, change.name, change.line), [])

    def run(self, change: Exchange, tests: set[str], most: float, named: Sequence[str] = ()) -> tuple[str, str]:
        """How it ends within `most` seconds, "killed", "over time" or "survived", and by which test; `named` first."""
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            self._child(writer, change, tests, most, named)
        os.close(writer)
        told, lines, silent = b"", [""], False
        while lines[-1] not in ("survived", "killed", "over time"):
            silent = not select.select([reader], [], [], 30 * self._limit(lines[-1]))[0]
            more = b"" if silent else os.read(reader, 65536)
            if not more:
                break
            told += more
            lines = told.decode().splitlines()
        os.close(reader)
        for end in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError):
                end(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        how, tried = lines[-1], [line for line in lines if "::" in line]
        if how == "survived":
            return how, ""
        assert tried, f"{change.name} of {change.file}: {how}"
        if how == "killed" or silent:
            return "over time" if silent else how, tried[-1]
        # Its process ended: by a limit that stops what is compiled, or by a fault there.
        return ("over time" if how == "over time" else "killed"), tried[-1]

    def _limit(self, test: str) -> float:
        return SECONDS + 5 * self.measured[test] if test in self.measured else UNKNOWN

    def _child(self, writer: int, change: Exchange, tests: set[str], most: float, named: Sequence[str]) -> None:
        how = "error"
        try:
            os.setpgid(0, 0)
            for function in self.functions(change):
                function.__code__ = change.code

            def before(test: str) -> None:
                os.write(writer, test.encode() + b"\n")

            how = self.attempt(tests, most, before, change.name, named)
        except BaseException as error:
            how = f"{type(error).__name__}: {error}".replace("\n", " ")
        finally:
            os.write(writer, how.encode() + b"\n")
            os._exit(0)

    def attempt(
        self,
        tests: set[str],
        most: float,
        before: Callable[[str], Any],
        name: str = "",
        named: Sequence[str] = (),
    ) -> str:
        """Runs tests here until one fails, or for `most` seconds: "killed", "over time" or "survived"."""

        def ended() -> bool:  # by a failure, or by a test that ended in time before
            return bool(results.failed) or any(test in self.measured for test in results.too_long)

        def order(item: pytest.Item) -> tuple[float, bool]:
            return self.measured.get(item.nodeid, UNKNOWN), name not in inspect.getsource(item.function)

        # File by file, those named first, then the quicker file first, the quicker test in it first; of those of
        # unknown length the ones first that speak of what is changed.
        results, name = self.results, name.rpartition(".")[2].lstrip("_")
        files = by_file(item for item in self.session.items if item.nodeid in tests)
        spent = {file: sum(order(item)[0] for item in items) for file, items in files.items()}
        quickest = [sorted(files[file], key=order) for file in sorted(files, key=lambda f: (f not in named, spent[f]))]
        with open("/proc/self/statm", encoding="ascii") as file:
            held = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
        self.session.config.pluginmanager.register(Limits(results, self._limit))
        results.run([item for items in quickest for item in items], before, most, ended)
        return "killed" if results.failed else "over time" if ended() else "survived"
