"""What transformers and PEFT say on a terminal though a user can do nothing about it. Checked by
`tests/test_finetune_study.py`.

The report of weights that a checkpoint lacks is checked in `models` in its stead: all but a classifier's are an error.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterator

NOISE = (
    (r"`is_gradient_checkpointing` is deprecated", FutureWarning),  # PEFT asks transformers 5 by the old name
    (r"`gradient_checkpointing(_kwargs)?` is deprecated", FutureWarning),  # the name that transformers 4 knows too
    (r"Could not find a config file in", UserWarning),  # PEFT, saving an adapter of a model without a hub id
    (r".*'pin_memory' argument is set as true but no accelerator", UserWarning),
)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without bars and reports of loading, and without the warnings of `NOISE`; all as before afterwards.

    Yields:
        Nothing.
    """
    from transformers import modeling_gguf_pytorch_utils as gguf
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    bar = gguf.tqdm  # its own, which asks nobody
    gguf.tqdm = functools.partial(bar, disable=True)
    try:
        with warnings.catch_warnings():
            for message, category in NOISE:
                warnings.filterwarnings("ignore", message, category)
            yield
    finally:
        gguf.tqdm = bar
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
