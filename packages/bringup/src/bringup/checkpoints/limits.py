"""What reading one checkpoint may cost. `docs/checkpoints.md` states each number; tests hold them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from bringup.errors import BringupError

MAX_SECONDS = 60.0
"""Wall-clock seconds for interpreting all pickles of one file; as many for naming its tensors, and for
describing it. Copying tensors is not counted."""
MAX_OPCODES = 10_000_000
"""Pickle instructions of one file, nested pickles included."""
MAX_HELD_BYTES = 128 * 2**20
"""Bytes of strings and objects (counted at 64 bytes each) that the pickles of one file may create; as many of
its tensors' names, and of its description."""
MAX_LINE = 2**16
"""Bytes of a newline-terminated argument (protocol 0)."""
MAX_INTEGER_BYTES = 1024
"""Bytes of one integer; more makes decimal conversion quadratic."""
MAX_NESTED_PICKLES = 4
"""Checkpoints inside checkpoints (`torch.storage._load_from_bytes`)."""
MAX_DEPTH = 100
"""Containers and modules inside one another in what is described."""
MAX_KEY_LEAVES = 1000
"""Leaves of a tuple that is used as a key (hashing nested tuples is recursive and uncached)."""
MAX_TENSORS = 250_000
"""Tensor names, aliases included."""
MAX_DIMENSIONS = 64
"""Dimensions of one tensor, as in PyTorch and NumPy."""
MAX_EQUAL_HASHES = 100
"""Keys of one hash in a set or dict that is made by a call: more make it quadratic."""
MAX_ZIP_MEMBERS = 250_000
MAX_ZIP_NAME = 4096
MAX_ZIP_DIRECTORY = 64 * 2**20
MAX_INFLATED_IN_MEMORY = 64 * 2**20
"""Bytes of a compressed member that is read whole (a pickle, TorchScript code)."""
MAX_INFLATION = 100
"""How many times its packed size a compressed archive may have, above `INFLATION_IS_FREE_BELOW` bytes."""
INFLATION_IS_FREE_BELOW = 64 * 2**20
MAX_EXPANSION = 64 * 2**20
"""Bytes by which views with stride 0 may grow in one file when written; beyond, they stay views."""
MAX_REREADING = 4
"""How many times the bytes of one strided tensor may be read; a view over itself could ask for more."""
LITERAL_STAYS_IN_FILE = 4096
"""Byte strings from this size on stay in the file until they are written."""


def exceeded(limit: str, value: float) -> BringupError:
    """The refusal of a file that costs more than `limit` allows."""
    return BringupError("checkpoint-limit", limit=limit, value=f"{value:,.0f}")


@dataclass
class Budget:
    """What is left for one file, shared by its nested pickles; naming and describing have one each.

    Raises:
        BringupError: `checkpoint-limit` when spent.
    """

    opcodes: int = field(default_factory=lambda: MAX_OPCODES)
    held: int = field(default_factory=lambda: MAX_HELD_BYTES)
    deadline: float = field(default_factory=lambda: time.monotonic() + MAX_SECONDS)

    def hold(self, size: int) -> None:
        """Count `size` bytes that stay in memory."""
        self.held -= size
        if self.held < 0:
            raise exceeded("memory", MAX_HELD_BYTES)

    def step(self) -> None:
        """Count one step of whoever walks the values; looks at the clock now and then."""
        self.opcodes -= 1
        if self.opcodes & 0xFFF == 0:
            if self.opcodes <= 0:
                raise exceeded("opcodes", MAX_OPCODES)
            self.check_time()

    def check_time(self) -> None:
        """Stop when the time is over."""
        if time.monotonic() > self.deadline:
            raise exceeded("seconds", MAX_SECONDS)
