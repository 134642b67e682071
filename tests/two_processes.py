"""A module of these tests run as two processes that meet in a file; what rank 0 prints."""

import json
from pathlib import Path
from typing import Any

from tests import warm


def printed(module: str, meeting: Path) -> Any:
    """Rank 0's JSON; both processes must end well, and none outlives the call."""
    running = [warm.Popen(module, str(rank), str(meeting)) for rank in (0, 1)]
    try:
        ended = [process.communicate() for process in running]
    finally:
        for process in running:
            process.kill()
    for process, (_, errors) in zip(running, ended, strict=True):
        assert process.returncode == 0, errors
    return json.loads(ended[0][0])
