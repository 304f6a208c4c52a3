"""What the fuzzer and the replay run on one input: read it, name and lay out its tensors, describe it, write it.

The only exception that may come out is `BringupError`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from bringup.checkpoints import convert, open_checkpoint
from bringup.errors import BringupError


def read_everything(data: bytes, folder: Path) -> str:
    """Returns the verdict or the id of the refusal."""
    path = folder / "input.pt"
    path.write_bytes(data)
    try:
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.tree is not ...
            assert checkpoint.layout.stored is not None
            verdict = checkpoint.verdict
        convert(path, folder / "out", accept_calls=True)
    except BringupError as error:
        assert error.id.startswith("checkpoint-") and error.parameters["file"] == str(path)
        return error.id
    return verdict


def one_input(data: bytes) -> None:
    """For the fuzzer: a folder for each input."""
    with tempfile.TemporaryDirectory() as folder:
        read_everything(data, Path(folder))
