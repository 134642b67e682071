"""The paper's sentences against their map: `python -m tests.sentences PAPER.md` names each that the map lacks.

The paper is not in this repository. How each of its sentences begins stands in `paper_sentences.txt`, which `--write`
writes and `tests/test_claims_sentences.py` holds the map against. Letters and digits are compared, without the
formulas: the text is a scan's, with numbers of lines in it.
"""

import argparse
import re
import tomllib
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path

BEGINNINGS = Path(__file__).with_name("paper_sentences.txt")
WORDS, LETTERS = 10, 9  # of a beginning at most; of a piece of prose at least
BLOCKS = (
    r"(?s)\A.*?^## ABSTRACT",  # title
    r"(?s)^# \d+ REFERENCES.*?(?=^Table 2:)",
    r"(?s)```.*?```|\$\$.*?\$\$",  # code and displayed formulas
    r"^ *- (?:\d\. )?",  # items of a list
    r"^.*\t.*$|^#.*$|^(\d{3} )?\d\.\d .*$|^[^a-z\n]*$",  # rows of tables, headings, numbers of lines
)
INLINE = r"\b\d{3}\b|<sup>.*?</sup>(lt;sup>1</sup>)?"  # numbers of lines, a footnote's marks
ABBREVIATION = "".join(rf"(?<!{re.escape(word)})" for word in (" al.", "e.g.", "i.e.", "a.k.a.", "w.r.t."))
END = re.compile(rf"{ABBREVIATION}(?<=[.?!])\*{{0,2}}\s+(?=[*\-\d ]*[A-Z$])")
FORMULA = re.compile(r"\$[^$]*\$|…")


def letters(text: str) -> str:
    """The letters and digits of a text, small."""
    return re.sub(r"[\W_]+", "", text).casefold()


def sentences(paper: str) -> list[str]:
    """The paper's sentences and captions; one that a figure or a displayed formula interrupts is several."""
    for pattern in BLOCKS:
        paper = re.sub(pattern, "\n\n", paper, flags=re.MULTILINE)
    paper = re.sub(INLINE, "", paper)
    paragraphs = (" ".join(one.split()) for one in re.split(r"\n\s*\n", paper))
    return [one for paragraph in paragraphs for one in END.split(paragraph) if prose(one)]


def prose(sentence: str) -> list[str]:
    """What stands between a sentence's formulas."""
    return [piece for piece in FORMULA.split(sentence) if len(letters(piece)) >= LETTERS]


def beginning(sentence: str) -> str:
    """A sentence's first words, with … for a formula."""
    words = re.sub(r"[*\\]|^[-•\d ]+", "", FORMULA.sub(" … ", sentence)).split()
    ends = [place for place, word in enumerate(words, 1) if re.search(r"[^\W\d_]", word)]
    return " ".join(words if len(ends) <= WORDS else words[: ends[WORDS - 1]])


def beginnings() -> list[str]:
    """How the paper's sentences begin, as committed."""
    return BEGINNINGS.read_text(encoding="utf-8").splitlines()


def mapped() -> list[str]:
    """The sentences that the map has."""
    text = files("allora_analysis.claims").joinpath("sentences.toml").read_text(encoding="utf-8")
    return [one["says"] for one in tomllib.loads(text)["sentence"]]


def lacking(said: Iterable[str], known: Iterable[str]) -> list[str]:
    """Those whose prose is in no known sentence."""
    return [one for one, places in places_of(said, known).items() if not places]


def places_of(said: Iterable[str], known: Iterable[str]) -> dict[str, list[int]]:
    """Which of the known sentences, by number, have the prose of each of those said."""
    others = list(enumerate(letters(one) for one in known))

    def places(one: str) -> list[int]:
        pieces = [letters(piece) for piece in prose(one)]
        return [place for place, other in others if all(piece in other for piece in pieces)]

    return {one: places(one) for one in said}


def main(argv: Sequence[str] | None = None) -> int:
    """Names what the map lacks; `--write` writes the beginnings."""
    parser = argparse.ArgumentParser(prog="python -m tests.sentences", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("paper", type=Path, metavar="PAPER.md")
    parser.add_argument("--write", action="store_true", help=f"write {BEGINNINGS.name}")
    arguments = parser.parse_args(argv)
    said = sentences(arguments.paper.read_text(encoding="utf-8"))
    if arguments.write:
        BEGINNINGS.write_text("".join(f"{beginning(one)}\n" for one in said), encoding="utf-8")
    missing = lacking(said, mapped())
    print(*missing, f"{len(said)} sentences, {len(missing)} of them not in the map", sep="\n")
    return bool(missing)


if __name__ == "__main__":
    raise SystemExit(main())
