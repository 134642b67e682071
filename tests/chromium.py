"""Debian's Chromium, driven by Playwright. `python -m tests.chromium` says whether it is here, in a line."""

import shutil
import sys

MISSING = "the browser tests need Chromium and found none: apt-get install chromium (Debian), as .ci/run does"


def executable() -> str | None:
    """Chromium's path; None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


if __name__ == "__main__":
    if executable() is None:
        print(f"error: {MISSING}", file=sys.stderr)
        raise SystemExit(2)
