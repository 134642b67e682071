"""Licenses, known vulnerabilities, what one module alone needs: `python -m tests.hardening.supply`.

Every distribution that the dependencies in pyproject.toml bring with them, as they are installed here, must have a
license that lets a user of the MIT license install it. A dependency that one module alone imports is named. Known
vulnerabilities are asked of pip-audit where there is one (`--audit PATH` of its executable).
"""

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.hardening import command_line, record

ROOT = Path(__file__).parents[2]
COMMAND = "python -m tests.hardening.supply"
FREE = re.compile(
    r"\b(MIT|BSD|Apache|PSF|Python Software Foundation|MPL|Mozilla|ISC|Unlicense|HPND|Historical Permission|Zlib|0BSD|"
    r"CC0|LGPL|Public Domain|CNRI|Matplotlib|NVIDIA Proprietary|SIL)",
    re.IGNORECASE,
)
IMPORTED = {"scikit-learn": "sklearn", "curvlinops-for-pytorch": "curvlinops", "pillow": "PIL", "jinja2": "jinja2"}


def closure(extras: Iterable[str]) -> dict[str, importlib.metadata.Distribution]:
    """What is installed of a package's dependencies, by name."""
    found: dict[str, importlib.metadata.Distribution] = {}
    todo = [Requirement(f"allora-analysis[{','.join(extras)}]")]
    while todo:
        wanted = todo.pop()
        name = canonicalize_name(wanted.name)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        known = name in found
        found[name] = distribution
        for text in (distribution.requires or []) if not known or wanted.extras else []:
            one = Requirement(text)
            chosen = [{"extra": extra} for extra in wanted.extras] or [{"extra": ""}]
            if one.marker is None or any(one.marker.evaluate(of) for of in chosen):
                todo.append(one)
    found.pop("allora-analysis", None)
    return found


def licence(distribution: importlib.metadata.Distribution) -> str:
    """Its license in its own words: the expression, the classifiers, or the first line of the field."""
    of = distribution.metadata
    classified = [one.rpartition(" :: ")[2] for one in of.get_all("Classifier") or [] if one.startswith("License ::")]
    given = (of.get("License") or "").strip().splitlines()
    return (
        of.get("License-Expression")
        or "; ".join(classified)
        or (given[0] if given else "")
        or _first_line(distribution)
    )


def _first_line(distribution: importlib.metadata.Distribution) -> str:
    # Of the license's own file.
    for file in distribution.files or []:
        if file.name.lower().startswith(("licen", "copying")):
            return next((line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()), "")
    return ""


def users(name: str) -> list[str]:
    """The package's modules that import a dependency."""
    wanted, found = IMPORTED.get(name, name.replace("-", "_")), []
    for path in (ROOT / "allora_analysis").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(one.split(".")[0] == wanted for one in names):
                found.append(str(path.relative_to(ROOT)))
                break
    return found


def audited(executable: str, distributions: Iterable[importlib.metadata.Distribution]) -> str:
    """What pip-audit says, in a line."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("".join(f"{one.name}=={one.version.partition('+')[0]}\n" for one in distributions))
        file.flush()
        command = [executable, "-s", "osv", "-r", file.name, "--no-deps", "--disable-pip", "-f", "json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1) or not done.stdout:
        return "pip-audit: its database could not be asked here"
    bad = [one for one in json.loads(done.stdout)["dependencies"] if one.get("vulns")]
    return f"pip-audit: {', '.join(one['name'] for one in bad) or 'none'} with known vulnerabilities"


def main() -> int:
    """Both, recorded."""
    audit = {"default": "", "help": "pip-audit's executable"}
    arguments = command_line(COMMAND, __doc__, "", {"--audit": audit})
    core, whole = closure(()), closure(("llm", "cluster"))
    odd = [f"{name} ({licence(one)!r})" for name, one in sorted(whole.items()) if not FREE.search(licence(one))]
    direct = {
        canonicalize_name(Requirement(text).name) for text in importlib.metadata.requires("allora-analysis") or []
    }
    needed = {name: users(name) for name in sorted(direct & whole.keys())}
    alone = [name for name, where in needed.items() if len(where) == 1]
    rows = [["dependency", "version", "licence", "modules that import it"]]
    rows += [
        [name, whole[name].version, licence(whole[name]), where[0] if len(where) == 1 else len(where)]
        for name, where in needed.items()
    ]
    told = (
        f"every license free ({len(core)} in the core, {len(whole)} with llm and cluster)"
        if not odd
        else ", ".join(odd)
    )
    told += f"; one module alone needs {', '.join(alone)}" if alone else ""
    told += f"; {audited(arguments.audit, whole.values()) if arguments.audit else 'pip-audit was not asked'}"
    print(told)
    record("supply chain", "licenses and vulnerabilities of all that is installed", f"{COMMAND} --audit PATH",
           len(whole), "distributions", told, "nothing", rows=rows)  # fmt: skip
    return int(bool(odd))


if __name__ == "__main__":
    sys.exit(main())
