"""What checkpoints carry beside tensors: converted without a complaint, whatever the pickle's form, and described."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import enum
import functools
import json
import logging
import pathlib
import pickle
import re
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from bringup.checkpoints import convert, open_checkpoint

warnings.filterwarnings(
    "ignore", message=".*(quantize|Sparse CSR|nested tensors|matrix subclass|weight_norm).*"
)


class Colour(enum.Enum):
    """An enumeration of somebody's."""

    RED = 1


@dataclasses.dataclass
class Settings:
    """A dataclass with a tensor inside."""

    rate: float = 0.1
    weights: torch.Tensor = dataclasses.field(default_factory=lambda: torch.ones(2))


Point = collections.namedtuple("Point", "x y")


class Ordered(collections.OrderedDict):  # type: ignore[type-arg]
    """A subclass, as Lightning's and mmcv's."""


class Subclass(torch.Tensor):
    """A tensor class of a library."""


def _hooked() -> nn.Module:
    module = nn.Linear(2, 2)
    module.register_forward_hook(print)
    return module


def _tagged() -> nn.Parameter:
    parameter = nn.Parameter(torch.ones(2))
    parameter.tags = {"rank": 0}  # type: ignore[attr-defined]
    return parameter


OBJECTS: dict[str, Any] = {
    "enum": Colour.RED,
    "flags": re.RegexFlag.A | re.RegexFlag.I,
    "dataclass": Settings(),
    "named_tuple": Point(torch.ones(2), 3),
    "ordered_subclass": Ordered(a=torch.ones(1)),
    "path": Path("/data/x"),
    "windows_path": pathlib.PureWindowsPath("C:/data/x"),
    "time": datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone.utc),
    "duration": datetime.timedelta(1),
    "partial": functools.partial(nn.LayerNorm, eps=1e-6),
    "size": torch.Size([1, 2]),
    "device": torch.device("cuda:0"),
    "dtype": torch.bfloat16,
    "layout": torch.sparse_csr,
    "namespace": argparse.Namespace(lr=1, weights=torch.ones(3)),
    "simple_namespace": types.SimpleNamespace(b=2),
    "complex": 1 + 2j,
    "large_integers": [2**200, -(2**70)],
    "no_numbers": [float("inf"), float("nan")],
    "sets": [{1, 2}, frozenset(["a"])],
    "bytes": [b"\xff\0", bytearray(b"x")],
    "range": [range(5), slice(1, 2), Ellipsis],
    "default_dict": collections.defaultdict(list, a=[1]),
    "counter": collections.Counter("aab"),
    "deque": collections.deque([torch.zeros(1)], maxlen=3),
    "numpy_scalars": [numpy.float64(1.5), numpy.int32(4), numpy.bool_(True), numpy.datetime64("2020-01-01")],
    "array": numpy.arange(6.0).reshape(2, 3),
    "array_fortran": numpy.asfortranarray(numpy.arange(6.0).reshape(2, 3)),
    "array_big_endian": numpy.arange(4, dtype=">i4"),
    "array_of_text": numpy.array(["a", "b"]),
    "array_of_objects": numpy.array([1, "a", None], dtype=object),
    "array_of_records": numpy.zeros(2, dtype=[("a", "f4"), ("b", "i8")]),
    "array_masked": numpy.ma.array([1.0, 2.0], mask=[0, 1]),
    "array_long_double": numpy.ones(2, dtype=numpy.longdouble),
    "random_state": numpy.random.RandomState(0),
    "random_generator": numpy.random.default_rng(0),
    "torch_generator": torch.Generator(),
    "class_and_functions": [nn.Linear, torch.relu, len, print],
    "logger": logging.getLogger("x"),
    "configuration": OmegaConf.create({"a": [1, {"b": 2}], "s": "${a}"}),
    "module_with_a_hook": _hooked(),
    "parameter_with_attributes": _tagged(),
    "tensor_subclass": torch.ones(2).as_subclass(Subclass),
    "jagged": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
    "uninitialised": nn.LazyLinear(3),
    "weight_norm": nn.utils.weight_norm(nn.Linear(2, 2)),
    "dynamic_quantisation": torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(3, 3)), {nn.Linear}),
    "distribution": torch.distributions.Normal(torch.zeros(2), torch.ones(2)),
}  # fmt: skip


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_beside_tensors(name: str, tmp_path: Path) -> None:
    value = {"w": torch.arange(3.0), "other": OBJECTS[name]}
    forms: list[tuple[str, Callable[[Path], object]]] = [
        ("legacy", lambda p: torch.save(value, p, _use_new_zipfile_serialization=False)),
        ("plain", lambda p: p.write_bytes(pickle.dumps(value, 4))),
        *((f"zip_{n}", lambda p, n=n: torch.save(value, p, pickle_protocol=n)) for n in (2, 4, 5)),  # type: ignore[misc]
    ]
    done = 0
    for form, save in forms:
        path = tmp_path / f"{form}.pt"
        try:
            save(path)
        except (TypeError, AttributeError, RuntimeError, pickle.PicklingError):
            continue  # torch itself has no such form of this object
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.verdict != "unneeded-calls", (form, checkpoint.globals[0])
        document = json.loads(convert(path, tmp_path / "out").description.read_text(encoding="utf-8"))
        assert "w" in document["tensors"] and "$unknown" not in str(document["tree"])
        done += 1
    assert done


def test_nnunets_records(tmp_path: Path) -> None:
    """The `.pkl` that version 1 writes beside each `.model`: plans of arrays and numbers, no tensor at all."""
    plans = {
        "num_modalities": 1,
        "plans_per_stage": {0: {"patch_size": numpy.array([96, 112, 96]), "do_dummy_2D_data_aug": False}},
        "dataset_properties": {
            "all_sizes": [(1, numpy.int64(2))],
            "intensityproperties": collections.OrderedDict(
                {0: {"mean": numpy.float64(3.5), "v": [numpy.float32(1)]}}
            ),
        },
        "normalization_schemes": collections.OrderedDict({0: "nonCT"}),
    }
    record = {"init": ("plans.pkl", "all", "out", None), "name": "nnUNetTrainerV2", "class": "<class 'x'>"}
    path = tmp_path / "model_final_checkpoint.model.pkl"
    path.write_bytes(pickle.dumps({**record, "plans": plans}))
    done = convert(path, tmp_path / "out")
    document = json.loads(done.description.read_text(encoding="utf-8"))
    assert document["verdict"] == "tensors-and-containers"
    tree = document["tree"]
    assert (
        tree["init"] == {"$tuple": ["plans.pkl", "all", "out", None]} and tree["plans"]["num_modalities"] == 1
    )
    stored = document["tensors"]["plans.plans_per_stage.0.patch_size"]
    assert stored["dtype"] == "int64" and stored["shape"] == [3]
    intensity = tree["plans"]["dataset_properties"]["intensityproperties"]
    assert "3.5" in json.dumps(intensity)
