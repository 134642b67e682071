"""The page of the recorded runs: what each folder of `experiments/results` holds, what reads it, what made it."""

from collections.abc import Sequence

from allora_analysis.claims.ledger import Row
from allora_analysis.records import record_files
from docs.site import source
from docs.site.prose import ROOT

RESULTS = ROOT / "experiments" / "results"


def page(rows: Sequence[Row]) -> str:
    """The page, in Markdown.

    Args:
        rows: the ledger's rows.
    """
    parts = [_part(folder.name, rows) for folder in sorted(RESULTS.iterdir()) if folder.is_dir()]
    about = (
        "Runs that take long are recorded, whatever they show, and claims read the records. "
        "`python -m experiments status` verifies them; `python -m experiments show KEY` prints one, packed or not."
    )
    return "\n\n".join(["# Records", about, *parts]) + "\n"


def _part(name: str, rows: Sequence[Row]) -> str:
    files = [path for path in (RESULTS / name).rglob("*") if path.is_file()]
    reading = [row for row in rows if row.claim.reads == name]
    made_by = sorted({path for row in reading if (path := source.experiment(row))})
    links = ", ".join(f"[`{path}`](source/{path.removesuffix('.py')}.md)" for path in made_by)
    claims = ", ".join(f"`{row.claim.id}`" for row in reading)
    size = sum(path.stat().st_size for path in files) / 1e6
    known = record_files(RESULTS / name)
    what = f"{len(known)} records" if known else f"{len(files)} tables"
    return (
        f"## {name}\n\n`experiments/results/{name}`: {what}, {size:.2g} MB. "
        f"Made by {links or 'the study of this name'}. Read by {claims or 'no claim'}."
    )
