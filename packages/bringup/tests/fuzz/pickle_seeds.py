"""Seeds for the fuzzer: small checkpoints of every container and every attack. `python pickle_seeds.py FOLDER`."""

from __future__ import annotations

import io
import pickle
import sys
import warnings
from pathlib import Path

import numpy
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from checkpoints.attacks import CALLS, DAMAGED
from checkpoints.test_bombs import bombs
from checkpoints.test_hostile_containers import AMBIGUOUS, LIES, TARS


def seeds() -> dict[str, bytes]:
    """File contents by name."""
    warnings.simplefilter("ignore")
    values = {
        "module": torch.nn.Linear(1, 1),
        "state": {"w": torch.ones(2).t(), "q": torch.quantize_per_tensor(torch.ones(1), 0.1, 0, torch.qint8)},
        "sparse": [torch.eye(2).to_sparse(), torch.eye(2).to_sparse_csr(), torch.ones(1).half()],
    }
    made = CALLS | DAMAGED | LIES | AMBIGUOUS | {f"tar_{name}": data for name, (_, data) in TARS.items()}
    made |= {f"bomb_{name}": data for name, (_, data) in bombs(0).items()}
    found = {name: data for name, data in made.items() if len(data) < 4096}
    for name, value in values.items():
        for zipped in (True, False):
            stream = io.BytesIO()
            torch.save(value, stream, _use_new_zipfile_serialization=zipped)
            found[f"{name}_{'zip' if zipped else 'legacy'}"] = stream.getvalue()
    for protocol in range(6):
        value = {"a": numpy.arange(3), "b": [1.5, None, True, {2}, b"x", 2**70], "c": complex(1, 2)}
        found[f"plain_{protocol}"] = pickle.dumps(value, protocol)
    return found


if __name__ == "__main__":
    for name, data in seeds().items():
        (Path(sys.argv[1]) / name).write_bytes(data)
