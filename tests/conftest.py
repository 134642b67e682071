"""The typing hook (every jaxtyping annotation checked by beartype), seeds, and the house's pytest options."""

import collections
import gc
import os
import re
import secrets
import signal
import zlib

import numpy as np
import pytest

PACKAGE = "allora_analysis"


def pytest_addoption(parser):
    parser.addoption("--seed", type=int, default=20241001, help="seed of the statistical tests")
    parser.addoption("--vary-seed", action="store_true", help="draw the seed afresh (printed at the top of the run)")
    parser.addoption("--untyped", action="store_true", help="without the shape-checking hook, as a user runs it")


def pytest_configure(config):
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        config.option.seed = worker["seed"]
    elif config.option.vary_seed:
        config.option.seed = secrets.randbelow(2**32)
    # A shell starts what it puts in the background with Ctrl-C ignored, and children inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Child processes (command-line tests) must see the same thread count whatever the machine.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # No test depends on the terminal that it is started from, child processes included.
    os.environ["TERM"] = "xterm-256color"
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
        os.environ.pop(name, None)
    # The hub's client reads it on import: a name that is no folder is an error at once, in child processes too.
    os.environ["HF_HUB_OFFLINE"] = "1"
    # Hypothesis keeps its counterexamples beside the tests, where that can be written to.
    if not os.access(config.rootpath, os.W_OK):
        from hypothesis import settings

        settings.register_profile("read-only tree", database=None)
        settings.load_profile("read-only tree")
    if not config.option.untyped:
        from jaxtyping import install_import_hook

        import tests.typing_hook  # noqa: F401  the hook's own import stops at the package `tests`

        install_import_hook(PACKAGE, "tests.typing_hook.checked")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What is imported and collected stays to the end: the garbage collector need not look through it again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


ASKED_FOR = ("pretrained", "slurm", "browser", "fits")


def pytest_collection_modifyitems(config, items):
    """Tests on a pretrained model, a Slurm or a browser, and fits over many sizes, run only where asked for."""
    off = [marker for marker in ASKED_FOR if marker not in config.option.markexpr]
    unwanted = [item for item in items if any(marker in item.keywords for marker in off)]
    config.hook.pytest_deselected(items=unwanted)
    items[:] = [item for item in items if item not in unwanted]
    # Rows as they are come first; what reads them again, after, mostly where a worker has them (`ledger_rows.as_is`).
    items.sort(key=lambda item: item.path.name != "test_ledger.py")
    if config.pluginmanager.hasplugin("_cov"):
        before = collections.Counter()
        for item in items:
            test = item.nodeid.partition("[")[0]
            if repeats(item, before[test]):
                item.add_marker("no_cover")
            before[test] += 1


def repeats(item, before: int) -> bool:
    """Whether a test only goes again through lines that others reach: coverage, which slows it down, leaves it out.

    Monte Carlo, hypothesis's examples, the ledger's rows with other draws or a planted error, which `test_ledger.py`
    runs as they are unless another test has (`ledger_rows.as_is`); a test's third value and on, but of rows and
    mistakes, each of which has lines of its own. What coverage reports is a lower bound of what the tests reach.
    """
    test = getattr(item, "obj", None)
    if "as_is" in getattr(getattr(test, "__code__", None), "co_names", ()):
        return False
    drawn = getattr(test, "is_hypothesis_test", False)
    planted = re.match(r"test_claims_(\d|draws)", item.path.name) is not None
    own = "bad_input" in item.keywords or item.path.name in ("test_ledger.py", "test_doctests.py")
    return drawn or planted or "statistical" in item.keywords or (before >= 2 and not own)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    node.workerinput["seed"] = node.config.option.seed


def pytest_report_header(config):
    return f"seed: {config.option.seed}, typing hook: {'off' if config.option.untyped else 'on'}"


@pytest.fixture
def rng(request) -> np.random.Generator:
    """A generator of this test's own: the session's seed and the test's name."""
    return np.random.default_rng([request.config.option.seed, zlib.crc32(request.node.nodeid.encode())])


@pytest.fixture
def runs_folder(tmp_path, monkeypatch):
    """An empty folder in the place of fine-tuning's records."""
    monkeypatch.setattr("allora_analysis.finetune.setting.RESULTS", tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium, for the tests marked so; without one they end with the way out."""
    from tests import chromium

    executable = chromium.executable()
    if executable is None:
        pytest.exit(chromium.MISSING, returncode=2)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=executable)
        yield running
        running.close()


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A tiny model and data set for grids, which no test changes."""
    from tests import tiny_grid

    return tiny_grid.sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="session")
def task():
    """The laboratory's task on digits, which no test changes."""
    pytest.importorskip("sklearn")
    from allora_analysis import images
    from allora_analysis.laboratory import training

    return training.prepare(images.load("digits"))
