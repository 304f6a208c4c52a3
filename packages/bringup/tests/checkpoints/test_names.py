"""Tensor names are the state dict's; everything else stands in the description."""

from __future__ import annotations

import json
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from bringup.checkpoints import convert, open_checkpoint, unimportable_classes


class Net(nn.Module):
    """Tied weights, a shared module, hidden buffers, plain attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.rigid = True
        self.levels = ["fsaverage6", (1, 2)]
        self.encoder = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.again = self.encoder[0]
        self.embedding = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("grid", torch.arange(3.0))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)
        self.edges = [torch.arange(4), torch.ones(2)]
        self.activation = torch.nn.functional.leaky_relu
        self.functions = [torch.sin, torch.cos]


def described(path: Path, folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(convert(path, folder).description.read_text(encoding="utf-8"))
    return document


@pytest.mark.parametrize("container", ["zip", "legacy"])
@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: {"model": m, "epoch": 3}, nn.DataParallel])
def test_whole_modules_have_the_names_of_their_state_dict(
    wrap: Callable[[nn.Module], Any],
    container: str,
    save: Callable[..., Path],
    assemble: Callable[..., dict[str, torch.Tensor]],
    tmp_path: Path,
) -> None:
    value = wrap(Net())
    model = value["model"] if isinstance(value, dict) else value
    path = save(value, container)
    document = described(path, tmp_path / "out")
    names = [name for name, row in document["tensors"].items() if row["part_of"] == "model"]
    assert names == list(model.state_dict())
    found = assemble(path)
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())
    model.load_state_dict({name: found[name] for name in names}, strict=True)


def test_attributes_and_other_tensors(save: Callable[..., Path], tmp_path: Path) -> None:
    document = described(save(Net().eval()), tmp_path / "out")
    attributes = document["tree"]["attributes"]
    assert attributes["rigid"] is True and attributes["training"] is False
    assert attributes["levels"] == ["fsaverage6", {"$tuple": [1, 2]}]
    assert attributes["edges"] == [{"$tensor": "edges.0"}, {"$tensor": "edges.1"}]
    assert attributes["activation"] == {"$global": "torch.nn.functional.leaky_relu"}
    assert document["tree"]["non_persistent_buffers"] == ["scratch"]
    assert set(load_file(tmp_path / "out" / "model.rest.safetensors")) == {"scratch", "edges.0", "edges.1"}
    assert document["tree"]["modules"]["encoder"]["$module"] == "torch.nn.modules.container.Sequential"
    assert document["verdict"] == "unknown-classes"


def test_state_dict_versions_are_kept(save: Callable[..., Path], tmp_path: Path) -> None:
    document = described(save(nn.BatchNorm1d(2).state_dict()), tmp_path / "out")
    assert document["tree"]["attributes"]["_metadata"][""] == {"version": 2}
    assert document["verdict"] == "tensors-and-containers"


def test_lightning_and_optimizer(save: Callable[..., Path], tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    value = {
        "epoch": 4,
        "pytorch-lightning_version": "2.2.0",
        "state_dict": model.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "hyper_parameters": {"lr": 1e-3, "widths": (32, 64), "none": None, "big": float("inf")},
    }
    document = described(save(value), tmp_path / "out")
    assert set(load_file(tmp_path / "out" / "model.safetensors")) == {"weight", "bias"}
    rest = set(load_file(tmp_path / "out" / "model.rest.safetensors"))
    assert "optimizer_states.0.state.0.exp_avg" in rest and document["model"] == ["state_dict"]
    hyper = document["tree"]["hyper_parameters"]
    assert hyper == {"lr": 1e-3, "widths": {"$tuple": [32, 64]}, "none": None, "big": {"$float": "inf"}}


def test_two_models_in_one_file_keep_their_prefixes(save: Callable[..., Path], tmp_path: Path) -> None:
    value = {"generator": nn.Linear(2, 2), "discriminator": nn.Linear(2, 1).state_dict()}
    document = described(save(value), tmp_path / "out")
    names = {"generator.weight", "generator.bias", "discriminator.weight", "discriminator.bias"}
    assert document["model"] is None and set(load_file(tmp_path / "out" / "model.safetensors")) == names


def test_torchscript(tmp_path: Path, assemble: Callable[..., dict[str, torch.Tensor]]) -> None:
    class Scripted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.norm = nn.BatchNorm2d(4)
            self.plain = torch.ones(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.conv(x)) * torch.tensor([2.0]) + self.plain.sum()

    model = torch.jit.script(Scripted())
    path = tmp_path / "script.pt"
    model.save(str(path))
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == "torchscript"
        named = [entry.name for entry in checkpoint.tensors if entry.in_model]
    assert sorted(named) == sorted(model.state_dict())
    found = assemble(path)
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())


def test_plain_pickles_of_arrays_and_values(tmp_path: Path) -> None:
    """nnU-Net's `.pkl` plans, and any dict of NumPy arrays."""
    value = {
        "plans": {"patch_size": numpy.array([28, 256, 256]), "spacing": numpy.float64(0.5), "name": "3d"},
        "large": numpy.random.rand(200, 30).astype(numpy.float32),
        "fortran": numpy.asfortranarray(numpy.arange(12.0).reshape(3, 4)),
        "big_endian": numpy.arange(4, dtype=">i4"),
        "objects": numpy.array([None, "x"], dtype=object),
        "names": {"a", "b"},
        "ordered": OrderedDict(x=1),
    }
    for protocol in range(6):
        path = tmp_path / "plans.pkl"
        path.write_bytes(pickle.dumps(value, protocol))
        document = described(path, tmp_path / "out")
        found = load_file(tmp_path / "out" / "plans.safetensors")
        assert torch.equal(found["large"], torch.from_numpy(value["large"]))
        assert torch.equal(found["fortran"], torch.from_numpy(value["fortran"].copy()))
        assert found["big_endian"].tolist() == [0, 1, 2, 3]
        assert found["plans.patch_size"].tolist() == [28, 256, 256]
        assert document["tree"]["plans"]["spacing"] == 0.5
        assert document["tree"]["names"] == {"$set": ["a", "b"]}
        assert document["verdict"] == "tensors-and-containers", list(document["globals"])[:2]


def test_tensors_in_a_plain_pickle(tmp_path: Path) -> None:
    """`pickle.dump` of tensors nests a legacy checkpoint in each storage."""
    path = tmp_path / "x.pkl"
    value = {"w": torch.randn(40, 40), "b": torch.randn(2)}
    path.write_bytes(pickle.dumps(value))
    done = convert(path, tmp_path)
    found = load_file(done.files[0])
    assert all(torch.equal(found[name], value[name]) for name in value)


def test_the_tar_format(tmp_path: Path) -> None:
    """torch 0.1.x; built by hand since nothing writes it today, and read by torch itself for comparison."""
    import io
    import struct
    import tarfile

    def dump(*values: Any) -> bytes:
        return b"".join(pickle.dumps(value, 2) for value in values)

    # Storage 7 has six elements, storage 8 is a view of its last four; tensor 1 is 2 × 2 on the view.
    storages = dump(1, (7, "cpu", torch.FloatStorage)) + struct.pack("<q6f", 6, *range(6))
    storages += dump([(8, 7, 2, 4)])
    tensors = dump(1, (1, 8, torch.FloatTensor)) + struct.pack("<ii2q2qq", 2, 0, 2, 2, 1, 2, 0)
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, 2)
    marker = object()
    pickler.persistent_id = lambda value: "1" if value is marker else None  # type: ignore[method-assign]
    pickler.dump({"w": marker})
    path = tmp_path / "old.pt"
    with tarfile.open(path, "w") as archive:
        for name, data in (("storages", storages), ("tensors", tensors), ("pickle", stream.getvalue())):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    expected = torch.load(path, weights_only=False)
    done = convert(path, tmp_path / "out")
    found = load_file(done.files[0])
    assert expected["w"].tolist() == [[2, 4], [3, 5]] and torch.equal(found["w"], expected["w"])


def test_unimportable_classes(save: Callable[..., Path]) -> None:
    with open_checkpoint(save(Net())) as checkpoint:
        assert unimportable_classes(checkpoint, ["torch"]) == (f"{Net.__module__}.Net",)
        assert unimportable_classes(checkpoint, ["torch", Net.__module__.split(".")[0]]) == ()


def test_shared_and_recursive_values_are_described_once(save: Callable[..., Path], tmp_path: Path) -> None:
    inner = [1, 2]
    loop: dict[str, Any] = {"w": torch.ones(1), "a": inner, "b": inner}
    loop["self"] = loop
    tree = described(save(loop), tmp_path / "out")["tree"]
    assert tree["b"] == {"$same_as": "/a"} and tree["self"] == {"$same_as": "/"}


class AttributeDict(dict):  # type: ignore[type-arg]
    """As Lightning keeps hyper-parameters."""


def test_hyper_parameters_of_another_class(save: Callable[..., Path], tmp_path: Path) -> None:
    from bringup.checkpoints import rules

    value = {"state_dict": {"w": torch.ones(1)}, "hyper_parameters": AttributeDict(width=4)}
    assert rules.fill("{attribute:width}", described(save(value), tmp_path / "out")) == 4


def test_nnunet_checkpoints(save: Callable[..., Path], tmp_path: Path) -> None:
    """nnU-Net's `.model` (version 1) and its `.pth` (version 2), with NumPy scalars in their records."""
    records = ([numpy.float64(0.5)], [numpy.float32(0.25)], [[1, 2]])
    state = nn.Conv3d(1, 2, 3).state_dict()
    old = {"epoch": 1, "state_dict": state, "optimizer_state_dict": {"state": {}}, "plot_stuff": records}
    new = {"network_weights": state, "trainer_name": "nnUNetTrainer", "init_args": {"plans": {"a": 1}}}
    for name, value in (("model_final_checkpoint.model", old), ("checkpoint_final.pth", new)):
        document = described(save(value, name=name), tmp_path / "out" / name)
        assert document["verdict"] == "tensors-and-containers"
        found = load_file(tmp_path / "out" / name / document["files"][0])
        assert all(torch.equal(found[key], tensor) for key, tensor in state.items())


@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_common_objects_are_no_calls_that_nobody_needs(container: str, save: Callable[..., Path]) -> None:
    import functools
    import logging
    import math
    import re

    module = nn.Linear(1, 1)
    module.helpers = [  # type: ignore[assignment]
        functools.partial(nn.LayerNorm, eps=1e-6),
        logging.getLogger("x"),
        re.compile("a+"),
        math.sqrt,
        len,
        numpy.random.RandomState(0),
        nn.init.xavier_uniform_,
        torch.relu,
        Path("x"),
        torch.optim.SGD,
    ]
    with open_checkpoint(save(module, container)) as checkpoint:
        assert checkpoint.verdict == "unknown-classes", checkpoint.globals[0]


@pytest.mark.parametrize(
    "name", ["__metadata__", "half a pair \ud800", "", "a.b", "x" * 1000, 7, b"bytes", None]
)
def test_names_that_no_file_can_have(name: Any, save: Callable[..., Path], tmp_path: Path) -> None:
    """A key that safetensors or JSON cannot hold: the tensor is there under a name of its own."""
    document = described(save({"first": torch.zeros(1), name: torch.ones(2)}), tmp_path / "out")
    found = load_file(tmp_path / "out" / document["files"][0])
    assert sorted(found) == sorted(document["stored"])
    assert [tensor.tolist() for key, tensor in found.items() if key != "first"] == [[1, 1]]
    assert name not in ("a.b", "x" * 1000) or name in found


def test_a_file_whose_name_is_no_text(save: Callable[..., Path], tmp_path: Path) -> None:
    document = described(save({"w": torch.ones(2)}, name="a\udcff.pt"), tmp_path / "out")
    assert document["files"] == ["a\udcff.safetensors"]
    (tmp_path / "out" / document["files"][0]).rename(tmp_path / "a.safetensors")  # which safetensors can open
    assert load_file(tmp_path / "a.safetensors")["w"].tolist() == [1, 1]
