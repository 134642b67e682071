"""The command line of every study: flags from the config, a table or JSON on standard output, one-line errors.

Checked by `tests/test_cli.py`, which runs each study as a user does.
"""

import contextlib
import dataclasses
import inspect
import io
import itertools
import os
import re
import shutil
import signal
import sys
import textwrap
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import tyro

import allora_analysis
from allora_analysis import outputs
from allora_analysis.study import INTERRUPTED, NOTES, Output, Study, as_json, doubt, note, show
from allora_analysis.validation import LLM, TOO_LARGE, ArgumentError, cut, not_installed, shown

# How torch says that a CPU has no more memory, without a type of its own for it: as a RuntimeError.
TORCH_FULL = ("can't allocate memory", "Storage size calculation overflowed")


def guarded(command: Callable[[], int]) -> int:
    """Run a command; a caller's mistake is one line and status 2, Ctrl-C status 130, a closed pipe is no error."""
    outputs.prepare()
    try:
        if signal.getsignal(signal.SIGINT) is allora_analysis._interrupted:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
            status = command()
        outputs.tell(sys.stdout.flush)
        return status
    except KeyboardInterrupt as error:
        print(f"interrupted: {str(error) or 'nothing was finished yet'}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # of a print outside `outputs.tell`
        outputs.swallow()
        return 0
    except Exception as error:
        if (told := _mistake(error)) is None:
            raise
        print(f"error: {told}", file=sys.stderr)
        return 2


def _mistake(error: Exception) -> str | None:
    # What is said of a caller's mistake, or of what this machine has not; None of an error of the toolkit's own.
    match error:
        case ArgumentError():
            return str(error)
        case ModuleNotFoundError() if (error.name or "").partition(".")[0] in LLM:
            return not_installed(error.name.partition(".")[0])
        case MemoryError():
            return _too_large(str(error) or "no more is free")
        case ValueError() if str(error).startswith(TOO_LARGE):
            return _too_large("an array larger than any memory")
        case OverflowError():
            return f"a number leaves double precision's range ({error}); ask for less extreme ones"
        case OSError() if error.filename is not None:
            return f"{error.filename}: {error.strerror}; name one that can be read and written"
        case RuntimeError() if any(words in str(error) for words in (*TORCH_FULL, "out of memory")):
            return _too_large(f"{error!s:.80}")
    return None


@contextlib.contextmanager
def goes_on() -> Iterator[None]:
    """Around work that is recorded as it comes: Ctrl-C says that the same command goes on."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt("what is recorded is kept; the same command goes on from there") from None


def _too_large(why: str) -> str:
    return f"not enough memory ({why}); ask for smaller sizes"


def parse(
    function: Callable[..., Any], program: str, argv: Sequence[str] | None, bare: str = "", about: str = ""
) -> Any:
    """Parse flags into the arguments of `function`, which are dataclasses, and call it.

    `bare` is said of a word that belongs to no flag: where such a word goes; `about` begins the help.

    Raises:
        ArgumentError: what cannot be parsed, in one line.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    for before, word in itertools.pairwise(["", *words]):
        if not word or re.fullmatch("--[^=]*=", word):  # a shell's variable that is not set
            raise ArgumentError(f"{word.rstrip('=') or before}: an empty value; give one, or leave the flag out")
    result: Any = SystemExit(0)  # of a help whose reader has gone

    def read() -> None:
        nonlocal result
        result = _parsed(function, program, words, bare, about)

    outputs.tell(read)
    if isinstance(result, SystemExit):
        raise result
    return result


def _parsed(function: Callable[..., Any], program: str, words: list[str], bare: str, about: str) -> Any:
    """What tyro makes of the words; SystemExit after its help. It refuses in a box on standard error: one line here."""
    # A switch takes no value: `--download`; one that is on by default is turned off, `--no-explained`.
    # What may be None is so where its flag is left out.
    markers = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)
    description, said, columns = _description(function, about), io.StringIO(), os.environ.get("COLUMNS")
    if not set(words) & {"-h", "--help"}:
        os.environ["COLUMNS"] = "100000"  # or the box would break words
    try:
        with contextlib.redirect_stderr(said):
            result = tyro.cli(function, prog=program, args=words, config=markers, description=description)
        sys.stderr.write(said.getvalue())  # a warning
        return result
    except SystemExit as ended:
        if ended.code == 2:
            raise ArgumentError(_in_a_line(said.getvalue(), bare)) from None
        return ended
    finally:
        os.environ.pop("COLUMNS", None)
        if columns is not None:
            os.environ["COLUMNS"] = columns


# Tyro's words for a mistake, and ours; words that another tyro has stand in the line as they are.
_NO_NUMBER = (
    "invalid literal for int.*?: |could not convert .*?: |Could not .*?parse.*?\\[|no type matching .*? from \\["
)
_QUOTED = r"""('.*?'|".*?"|['"][^'"]*)"""  # as Python's repr has it; a long one is cut before its end
_OURS = (
    (rf"Error parsing (-\S+): (?:{_NO_NUMBER}){_QUOTED}(?:\].*)?", r"\1 must be {kind}, received \2"),
    (r"invalid choice (.*) for argument '(\S+)'\. Expected one of \((.*)\)\.", r"\2 must be one of \3; received \1"),
    (r"Missing value for argument '(\S+)'\. Expected 1 values\.", r"\1 takes a value, received none"),
    (r"Missing value for argument '(\S+)'\. Expected (\d+) values\.", r"\1 takes \2 values, received fewer"),
    (r"Error parsing (.*)", r"\1"),
)
_KINDS = {"INT": "a whole number", "FLOAT": "a number"}
_KINDS |= {f"[{one} [{one} ...]]": f"{told[2:]}s" for one, told in _KINDS.items()}
_KINDS |= {"FLOAT FLOAT": "two numbers"}


def _in_a_line(box: str, bare: str) -> str:
    """What stands in tyro's box: below its title the mistake, then below rules the flags that are or may be meant."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", box)  # without colors, then without its sides
    rows = [re.sub(r"^(?:[│|] ?|  )|\s*[│|]?$", "", row) for row in plain.splitlines()]
    parts = re.split(r"^(?:[╭╰+].*|\s*[─-]{2,})$", "\n".join(rows), flags=re.MULTILINE)
    first = parts[min(1, len(parts) - 1)]
    told = " ".join(first.split())
    if told.startswith("Missing from") and (missing := re.findall(r"^ {4}(\S+)", first, re.MULTILINE)):
        return f"{', '.join(missing)} must be given; --help says what each takes"
    flags = re.findall(r"^ {4}(-\S+) ?(.*)", "\n".join(parts[2:]), re.MULTILINE)
    if told.startswith("Unrecognized options: "):
        told = told.partition(": ")[2]
        if not told.startswith("-"):
            word, way_out = told.split(", ")[0], bare or "name its flag before it, or leave it out"
            return f"{shown(word)} belongs to no flag; {way_out}"
        flag = re.split("[=, ]", told)[0]
        perhaps = f"perhaps {flags[0][0]}; " if flags and flags[0][0] != flag else ""
        return f"{cut(flag)}: no such flag; {perhaps}--help lists all"
    kind = _KINDS.get(flags[0][1] if flags else "", "as --help says")
    for theirs, ours in _OURS:
        if found := re.fullmatch(theirs, told):
            return cut(found.expand(ours.format(kind=kind)))
    return cut(told)


def _description(function: Callable[..., Any], about: str) -> str:
    """A docstring down to its sections, in lines that fit the terminal; tyro keeps the breaks before an indent."""
    told = re.split(r"\n\n(?:Args|Attributes|Returns|Raises):", inspect.getdoc(function) or "")[0]
    told = f"{about}\n\n{told}" if about else told
    wide = min(100, shutil.get_terminal_size().columns)
    parts = (
        one if "\n- " in one else textwrap.fill(" ".join(one.split()), wide, **NOTES) for one in told.split("\n\n")
    )
    return "\n\n".join(parts)


def about(package: ModuleType, commands: Mapping[str, str], argv: Sequence[str] | None = None) -> int:
    """The command of a package that has nothing to run: what is in it, and the commands that use it."""

    def command() -> int:
        words = sys.argv[1:] if argv is None else argv
        if set(words) - {"-h", "--help"}:
            raise ArgumentError(f"{package.__name__} takes no arguments, received {' '.join(words)!r}; it only tells")
        lines = [inspect.cleandoc(package.__doc__ or ""), "", *(f"{one}\n    {told}" for one, told in commands.items())]
        outputs.say("\n".join(lines))
        return 0

    return guarded(command)


def main(study: Study, argv: Sequence[str] | None = None) -> int:
    """A study's command: parse, check the outputs, run, print, write."""
    # A class made here, not a function with replaced annotations: the tests' typing hook wraps functions.
    program = f"python -m allora_analysis.{study.name}"
    example = f"For example: {program} {study.example}".rstrip()
    config = Annotated[study.config, tyro.conf.arg(help=example)]  # in place of the docstring, which stands above
    namespace = {"__doc__": inspect.cleandoc(study.config.__doc__ or "")}
    arguments = dataclasses.make_dataclass("Arguments", [("config", config), ("output", Output)], namespace=namespace)

    def command() -> int:
        parsed = parse(arguments, program, argv)
        return _run(study, parsed.config, parsed.output)

    return guarded(command)


def _run(study: Study, config: Any, output: Output) -> int:
    wanted = {"--json": output.json, "--figure": output.figure}
    read = {"--" + name.replace("_", "-"): value for name, value in vars(config).items()}
    outputs.check_apart({flag: Path(path) for flag, path in wanted.items() if path not in (None, "-")}, read)
    if output.json not in (None, "-"):
        outputs.check_writable("--json", Path(output.json))
    if output.figure is not None:
        from allora_analysis import plotting

        plotting.check_path(output.figure)
        outputs.check_writable("--figure", output.figure)
    try:
        result = study.run(config)
    except ArgumentError as error:
        raise ArgumentError(by_flag(str(error), read)) from None
    document = as_json(study, config, result)
    if output.json == "-":
        outputs.tell(lambda: outputs.print_json(document))
    else:
        table = study.table(config, result)
        outputs.tell(lambda: show(table))
    if output.json not in (None, "-"):
        outputs.write_text("--json", Path(output.json), document + "\n")
    if output.figure is not None:
        _draw(study, config, result, output.figure)
    if result.interrupted:
        print("interrupted: only what was finished is shown", file=sys.stderr)
        return INTERRUPTED
    # Last, since the second run takes as long as the first, and Ctrl-C in it must lose nothing.
    try:
        if output.json != "-" and (line := doubt(study, config, result)) is not None:
            outputs.tell(lambda: note(line))
    except KeyboardInterrupt:
        print("interrupted: the second seed was not run; the result itself is whole", file=sys.stderr)
        return INTERRUPTED
    return 0


def by_flag(words: str, flags: Collection[str]) -> str:
    """An error that begins with a field's name, with its flag's instead."""
    field = re.split("[ :]", words)[0]
    flag = "--" + field.replace("_", "-")
    return flag + words.removeprefix(field) if flag in flags else words


def _draw(study: Study, config: Any, result: Any, path: Path) -> None:
    from allora_analysis import plotting

    try:
        with plotting.style():
            figure = study.plot(config, result)
        outputs.write_atomically(path, lambda target: plotting.save(figure, target, f"{study.name}: {config}"))
    except OSError as error:
        raise ArgumentError(f"--figure {path}: {error.strerror}; what was computed is printed above") from None
