"""Every kind of tensor that torch writes comes back bit by bit."""

from __future__ import annotations

import json
import math
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bringup.checkpoints import convert, open_checkpoint
from bringup.errors import BringupError

warnings.filterwarnings("ignore", message=".*(quantize|Sparse CSR|nested tensors|TypedStorage).*")

PLAIN = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16]
PLAIN += [torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool]
PLAIN += [torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64]
ENCODED = [
    torch.complex32,
    torch.complex128,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
    torch.float8_e8m0fnu,
]


def random_bits(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Any bits, NaNs included; booleans stay booleans."""
    if dtype is torch.bool:
        return torch.randint(0, 2, shape).bool()
    size = torch.empty((), dtype=dtype).element_size()
    count = int(torch.tensor(shape).prod()) * size
    return torch.randint(0, 256, (count,), dtype=torch.uint8).view(dtype).reshape(shape)


@pytest.mark.parametrize("container", ["zip", "legacy"])
@pytest.mark.parametrize("dtype", PLAIN + ENCODED, ids=str)
def test_every_element_type(
    dtype: torch.dtype,
    container: str,
    save: Callable[..., Path],
    assemble: Callable[..., dict[str, torch.Tensor]],
    probe: ModuleType,
) -> None:
    if container == "legacy" and dtype in (torch.uint16, torch.uint32, torch.uint64, torch.float8_e8m0fnu):
        dtype = torch.float32  # torch itself has no legacy storages for these
    value = random_bits(dtype, 3, 5)
    found = assemble(save({"w": value}, container))
    assert probe.is_same(found["w"], value)


@pytest.mark.parametrize("dtype", PLAIN, ids=str)
def test_plain_types_are_plain_in_safetensors(
    dtype: torch.dtype, save: Callable[..., Path], tmp_path: Path, probe: ModuleType
) -> None:
    value = random_bits(dtype, 4, 2)
    done = convert(save({"w": value}), tmp_path / "out")
    assert probe.is_same(load_file(done.files[0])["w"], value)


BASE = torch.arange(120, dtype=torch.float32).reshape(2, 3, 4, 5)
LAYOUTS: dict[str, Any] = {
    "scalar": torch.tensor(3.5),
    "empty": torch.empty(0, 3),
    "transposed": BASE[0, 0].t(),
    "permuted": BASE.permute(3, 1, 0, 2),
    "channels_last": BASE.contiguous(memory_format=torch.channels_last),
    "sliced": BASE[:, 1:, ::2, 1:4],
    "one_column": BASE.reshape(12, 10)[:, 3],
    "offset": BASE.flatten()[7:19],
    "expanded": torch.arange(4.0).expand(3, 4),
    "expanded_inside": torch.arange(6.0).reshape(2, 3, 1).expand(2, 3, 4),
    "overlapping": torch.arange(10.0).unfold(0, 4, 2),
    "complex128_strided": torch.randn(4, 6, dtype=torch.complex128).t(),
    "conjugate": torch.randn(3, dtype=torch.complex64).conj(),
    "negative_view": torch.randn(3, dtype=torch.complex64).conj().imag,
    "parameter": torch.nn.Parameter(torch.randn(2, 2)),
    "half_precision_transposed": torch.randn(33, 17).bfloat16().t(),
    "sparse_coo": torch.eye(5).to_sparse(),
    "sparse_coo_uncoalesced": torch.sparse_coo_tensor([[0, 0]], [1.0, 2.0], (3,)),
    "sparse_csr": torch.eye(4).to_sparse_csr(),
    "sparse_csc": torch.eye(4).to_sparse_csc(),
    "sparse_bsr": torch.eye(4).to_sparse_bsr((2, 2)),
    "sparse_bsc": torch.eye(4).to_sparse_bsc((2, 2)),
    "quantised": torch.quantize_per_tensor(torch.randn(3, 4), 0.1, 3, torch.quint8),
    "quantised_signed": torch.quantize_per_tensor(torch.randn(3, 4), 0.5, 0, torch.qint32),
    "quantised_channels": torch.quantize_per_channel(
        torch.randn(3, 4), torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1, 2, 3]), 0, torch.qint8
    ),
    "quantised_half_bytes": torch.quantize_per_channel(
        torch.randn(3, 5), torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.0, 1.0, 2.0]), 0, torch.quint4x2
    ),
}


@pytest.mark.parametrize("container", ["zip", "legacy"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout(
    name: str,
    container: str,
    save: Callable[..., Path],
    assemble: Callable[..., dict[str, torch.Tensor]],
    probe: ModuleType,
) -> None:
    value = LAYOUTS[name]
    found = assemble(save({"w": value}, container))["w"]
    assert probe.is_same(found, value)


@pytest.mark.parametrize("layout", ["coo", "csr"])
def test_indices_beyond_the_shape(
    layout: str, save: Callable[..., Path], assemble: Callable[..., Any]
) -> None:
    """Converted as they stand, and refused where a tensor is made of them."""
    index, ones, options = torch.tensor([0, 10**9]), torch.ones(2), {"check_invariants": False}
    if layout == "csr":
        value = torch.sparse_csr_tensor(torch.tensor([0, 1, 2]), index, ones, (2, 3), **options)
    else:
        value = torch.sparse_coo_tensor(index[None], ones, (3,), is_coalesced=True, **options)
    with pytest.raises(RuntimeError, match=r"ind(ex|ices)|size"):
        assemble(save({"w": value}))


def test_a_quantised_type_without_a_quantiser(
    save: Callable[..., Path], assemble: Callable[..., Any]
) -> None:
    path = save({"w": torch.zeros(4, dtype=torch.uint8).view(torch.quint8)})
    with pytest.raises(Exception, match="no quantiser"):
        assemble(path)


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf])
def test_a_scale_that_is_no_number_is_refused(
    scale: float, save: Callable[..., Path], tmp_path: Path
) -> None:
    path = save({"w": torch.quantize_per_tensor(torch.randn(3, 4), 0.1, 3, torch.quint8)}, "legacy")
    data = path.read_bytes()
    assert data.count(struct.pack(">d", 0.1)) == 1
    path.write_bytes(data.replace(struct.pack(">d", 0.1), struct.pack(">d", scale)))
    with pytest.raises(BringupError) as raised:
        convert(path, tmp_path / "out")
    assert raised.value.id == "checkpoint-tensor"
    assert not list((tmp_path / "out").glob("*"))


def test_nested_and_meta_tensors(
    save: Callable[..., Path], assemble: Callable[..., dict[str, torch.Tensor]]
) -> None:
    nested = torch.nested.nested_tensor([torch.ones(2), torch.arange(3.0)])
    found = assemble(save({"n": nested, "m": torch.empty(3, 4, device="meta")}))
    assert [part.tolist() for part in found["n"].unbind()] == [[1, 1], [0, 1, 2]]
    assert found["m"].is_meta and found["m"].shape == (3, 4)


@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_shared_memory_of_a_model_keeps_every_name(
    container: str, save: Callable[..., Path], assemble: Callable[..., Any], tmp_path: Path
) -> None:
    whole = torch.randn(4, 6)
    value = {"whole": whole, "alias": whole, "rows": whole[1:3], "turned": whole.t(), "own": torch.randn(2)}
    path = save(value, container)
    found = assemble(path, tmp_path / "out")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert sorted(stored) == sorted(value)
    assert all(torch.equal(found[n], value[n]) and torch.equal(stored[n], value[n]) for n in value)
    tensors = json.loads((tmp_path / "out" / "model.json").read_text())["tensors"]
    assert tensors["alias"]["from"] == {"stored": "alias", "same_memory_as": "whole"}
    assert tensors["rows"]["from"] == {"stored": "rows", "overlaps": "whole"}
    assert tensors["rows"]["source"]["offset"] == 6 and tensors["turned"]["source"]["strides"] == [1, 6]
    assert len({tensors[name]["source"]["storage"] for name in ("whole", "alias", "rows", "turned")}) == 1


def test_shared_memory_beside_the_model_is_stored_once(
    save: Callable[..., Path], assemble: Callable[..., Any], tmp_path: Path
) -> None:
    whole, flat = torch.randn(4, 6), torch.arange(10.0)
    rest = {"again": whole, "rows": whole[1:3], "a": flat[:6], "b": flat[4:]}
    found = assemble(save({"state_dict": {"w": whole}, "rest": rest}), tmp_path / "out")
    assert all(torch.equal(found[f"rest.{name}"], tensor) for name, tensor in rest.items())
    assert set(load_file(tmp_path / "out" / "model.safetensors")) == {"w"}
    assert set(load_file(tmp_path / "out" / "model.rest.safetensors")) == {"rest.a:storage"}
    tensors = json.loads((tmp_path / "out" / "model.json").read_text())["tensors"]
    assert tensors["rest.again"]["from"] == {"stored": "w", "same_memory_as": "w"}
    assert tensors["rest.rows"]["from"] == {"stored": "w", "offset_bytes": 24, "strides": [6, 1]}


def test_many_names_of_one_tensor_do_not_grow_without_end(
    save: Callable[..., Path], assemble: Callable[..., Any], tmp_path: Path
) -> None:
    weight = torch.randn(1000)
    value = {f"w{index}": weight for index in range(500)}
    path = save(value)
    found = assemble(path, tmp_path / "out")
    assert all(torch.equal(found[name], weight) for name in value)
    assert (tmp_path / "out" / "model.safetensors").stat().st_size < 3 * path.stat().st_size


def test_disjoint_views_of_one_storage_keep_their_names(save: Callable[..., Path], tmp_path: Path) -> None:
    flat = torch.arange(10.0)
    done = convert(save({"a": flat[:5], "b": flat[5:]}), tmp_path / "out")
    found = load_file(done.files[0])
    assert torch.equal(found["a"], flat[:5]) and torch.equal(found["b"], flat[5:])


def test_only_the_viewed_part_is_written(save: Callable[..., Path], tmp_path: Path) -> None:
    done = convert(save({"w": torch.zeros(1_000_000)[10:14]}), tmp_path / "out")
    assert done.bytes < 1000


def test_big_endian_files(tmp_path: Path, assemble: Callable[..., dict[str, torch.Tensor]]) -> None:
    value = {
        "w": torch.randn(3, 4),
        "i": torch.arange(5),
        "h": torch.randn(4).half(),
        "c": torch.randn(2) * 1j,
    }
    path = tmp_path / "big.pt"
    writer = torch._C.PyTorchFileWriter(str(path))
    import io
    import zipfile

    little = io.BytesIO()
    torch.save(value, little)
    with zipfile.ZipFile(little) as archive:
        for name in archive.namelist():
            data, record = archive.read(name), name.split("/", 1)[1]
            if record.startswith("data/"):
                tensor = list(value.values())[int(record[5:])]
                unit = tensor.element_size() // (2 if tensor.is_complex() else 1)
                data = b"".join(data[i : i + unit][::-1] for i in range(0, len(data), unit))
            if record == "byteorder":
                data = b"big"
            if record not in (".data/serialization_id", "version"):
                writer.write_record(record, data, len(data))
    writer.write_end_of_file()
    expected = torch.load(path)
    found = assemble(path)
    assert all(torch.equal(found[name], value[name]) for name in value)
    assert torch.equal(expected["w"], value["w"])


def test_compressed_archives_are_inflated(
    save: Callable[..., Path], tmp_path: Path, assemble: Callable[..., dict[str, torch.Tensor]]
) -> None:
    import zipfile

    value = {"w": torch.arange(50_000), "v": torch.arange(50_000).reshape(100, 500).t()}
    plain, packed = save(value), tmp_path / "packed.pt"
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    found = assemble(packed, tmp_path / "out")
    assert all(torch.equal(found[name], value[name]) for name in value)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["packed.json", "packed.safetensors"]


def test_tensors_stay_in_the_file_until_written(save: Callable[..., Path]) -> None:
    path = save({"w": torch.randn(500_000)})
    with open_checkpoint(path) as checkpoint:
        read = checkpoint.file.read_into
        touched: list[int] = []
        checkpoint.file.read_into = lambda position, target: (  # type: ignore[method-assign]
            touched.append(len(target)),
            read(position, target),
        )[1]
        assert checkpoint.tensors[0].tensor.shape == (500_000,)
        assert checkpoint.layout.stored[0].size == 2_000_000
        assert sum(touched) == 0


def test_header_is_aligned_and_sorted(save: Callable[..., Path], tmp_path: Path) -> None:
    value = {"b": torch.zeros(3, dtype=torch.uint8), "h": torch.zeros(5).half(), "d": torch.zeros(1).double()}
    done = convert(save(value), tmp_path / "out")
    data = done.files[0].read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    rows = {name: row["data_offsets"] for name, row in header.items() if name != "__metadata__"}
    assert length % 8 == 0 and rows == {"d": [0, 8], "h": [8, 18], "b": [18, 21]}
