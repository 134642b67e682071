"""One notebook executed, its outputs cleaned and judged. Checked by `tests/test_notebooks.py`."""

import asyncio
import math
import os
import re
import sys
import time
import warnings
from pathlib import Path
from queue import Empty
from typing import Any

import nbformat
from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.channels import AsyncZMQSocketChannel
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from traitlets import Type

from allora_analysis.outputs import write_atomically

SECONDS = 240  # for one cell, on a machine that others share
PAUSE = 2.0  # seconds between two looks for a message of the kernel
WIDGET = "application/vnd.jupyter.widget-view+json"
PROGRESS = re.compile(r"^[\w ]+: \d+ of \d+$")  # what a study says on standard error while it runs
FEW_BITS = re.compile(r"^Failed to load CPU gemm_4bit_forward")  # bitsandbytes, on a processor that multiplies bf16
# Absolute paths as they begin on most machines, this machine's own, and addresses in memory.
HERE = "|".join(re.escape(f"{folder}/") for folder in {Path.home(), Path.cwd(), Path(sys.prefix)})
PLACE = re.compile(
    rf"(?<![\w.:/<])/(?:home|root|tmp|usr|var|opt|mnt|Users|private)/\S+|\b[A-Z]:\\\S+|\b0x[0-9a-f]{{8,}}|{HERE}"
)
VERDICT = re.compile(r"^\| (\w+(?:\\_\w+)*) \| (\S+) \|", re.MULTILINE)
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
# The same sums in the same order on every machine, and no hub.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


class Failed(Exception):
    """A notebook that did not run, or whose outputs may not be kept: why, in a few lines."""


def execute(path: Path, write: bool) -> None:
    """Run a notebook from a fresh kernel in its own folder.

    Args:
        path: the notebook.
        write: True: keep the outputs; False: compare the verdicts they show with those in the file.

    Raises:
        Failed: a cell raised or took too long, or the outputs may not be kept.
    """
    notebook = nbformat.read(path, as_version=4)
    before = shown_verdicts(notebook)
    for again in (True, False):
        try:
            _run(notebook, path.parent)
            break
        except CellExecutionError as error:
            raise Failed(_plain(error)) from None
        except (CellTimeoutError, DeadKernelError, RuntimeError) as error:  # now and then a kernel's answer is lost
            if not again:
                raise Failed(_plain(error)) from None
            print(f"{path.name}: no answer from the kernel; once more", file=sys.stderr)
    clean(notebook, path.parent.parent)
    if found := blemishes(notebook):
        raise Failed("; ".join(found))
    if write:
        write_atomically(path, lambda target: nbformat.write(notebook, target))
    elif (after := shown_verdicts(notebook)) != before:
        raise Failed(f"shows other verdicts than the ledger gives today ({_moved(before, after)}): make notebooks")


def _moved(before: list[tuple[str, str]], after: list[tuple[str, str]]) -> str:
    # "3.1-expectation: shown holds, today refuted".
    told = []
    for claim in sorted({claim for claim, _ in set(before) ^ set(after)}):
        shown, today = (", ".join(verdict for one, verdict in of if one == claim) or "none" for of in (before, after))
        told.append(f"{claim}: shown {shown}, today {today}")
    return "; ".join(told)


class _Channel(AsyncZMQSocketChannel):
    """Looks again after each pause: a message that arrives while another is sent now and then wakes nobody."""

    async def get_msg(self, timeout: float | None = None) -> dict[str, Any]:
        end = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            left = end - time.monotonic()
            try:
                return await super().get_msg(min(PAUSE, max(left, 0.0)))
            except Empty:
                if left <= PAUSE:
                    raise


class _Client(AsyncKernelClient):
    shell_channel_class = iopub_channel_class = Type(_Channel)


class _Manager(AsyncKernelManager):
    client_factory = Type(_Client)


def _run(notebook: NotebookNode, folder: Path) -> None:
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name=KERNEL["name"],
        kernel_manager_class=_Manager,
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        extra_arguments=["--HistoryManager.enabled=False", "--log-level=ERROR"],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the machinery's own; the kernel's are in the outputs
        asyncio.run(client.async_execute(env=os.environ | ENVIRONMENT))


def _plain(error: Exception) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()


def clean(notebook: NotebookNode, root: Path) -> None:
    """Take out what differs from run to run or from machine to machine, in place.

    Args:
        notebook: executed.
        root: the repository's folder; what is below it is shown relative to it.
    """
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in map(_cleaned, cell.outputs) if output is not None]
            for output in cell.outputs:
                _relative(output, f"{root}/")


def _cleaned(output: NotebookNode) -> NotebookNode | None:
    if output.output_type == "stream" and output.name == "stderr":
        lines = [line for line in output.text.splitlines() if not PROGRESS.match(line) and not FEW_BITS.match(line)]
        output.text = "\n".join(lines)
        return output if output.text.strip() else None
    if "data" in output:
        output.data.pop(WIDGET, None)
        output.metadata = {}
    return output


def _relative(output: NotebookNode, root: str) -> None:
    if "text" in output:
        output.text = output.text.replace(root, "")
    for kind, value in output.get("data", {}).items():
        if isinstance(value, str) and not kind.startswith("image/png"):
            output.data[kind] = value.replace(root, "")


def texts(notebook: NotebookNode) -> list[str]:
    """All that a notebook's outputs say in words.

    Returns:
        The texts, cell by cell; pictures are left out.
    """
    found: list[str] = []
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            found.append(output.get("text", ""))
            data: dict[str, Any] = output.get("data", {})
            found += [value for kind, value in data.items() if isinstance(value, str) and kind != "image/png"]
    return [text for text in found if text]


def blemishes(notebook: NotebookNode) -> list[str]:
    """What may not be kept, a line each: warnings, errors, places on this machine, code cells without an execution."""
    found = []
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        if cell.source.strip() and cell.execution_count is None:
            found.append(f"cell {index} was not executed")
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"cell {index} raised {output.ename}: {output.evalue}")
            if output.output_type == "stream" and output.name == "stderr":
                found.append(f"cell {index} printed to standard error: {output.text.strip()[:300]}")
    found += [f"an output names {place[0]}" for text in texts(notebook) for place in PLACE.finditer(text)]
    return found


def shown_verdicts(notebook: NotebookNode) -> list[tuple[str, str]]:
    """The verdicts that a notebook's tables show.

    Returns:
        Claim and verdict, sorted, each pair once.
    """
    from allora_analysis.claims.claim import VERDICTS

    rows = [match for text in texts(notebook) for match in VERDICT.findall(text)]
    pairs = {(claim, verdict.replace("\\", "")) for verdict, claim in rows}
    return sorted((claim, verdict) for claim, verdict in pairs if verdict in VERDICTS)
