"""Probe: build today's class, load converted tensors strictly, save, read back, compare bit by bit.

Arguments: {"plan": path of a JSON file}, whose keys are
    class_path "package.module:Class", keywords {...}, python_path [folders], layout, output, training,
    files {name: path}, stored {name: {file, dtype, shape, sha256}}, tensors {target name: description}.
Answer: {"ok", "step", "error"} and, of the keys, {"missing", "unexpected", "reshaped"}; at the end
    {"tensors", "differing", "torch"}. Standard library and torch only; safetensors is read and written here.
"""

import contextlib
import ctypes
import hashlib
import importlib
import json
import os
import struct
import sys

# safetensors' element types, as torch names them; those that an old torch lacks are left out below.
NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
    "BOOL": "bool", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "C64": "complex64",
}  # fmt: skip


PACKED = ("quint4x2", "quint2x4")


class Failure(Exception):
    """A step that did not work; becomes the answer."""


class TensorFile:
    """A safetensors file: header at once, tensors when asked for."""

    def __init__(self, torch, path):
        self.torch = torch
        self.stream = open(path, "rb")  # noqa: SIM115 - read from as long as the probe runs
        (length,) = struct.unpack("<Q", self.stream.read(8))
        self.header = json.loads(self.stream.read(length).decode("utf-8"))
        self.header.pop("__metadata__", None)
        self.start = 8 + length

    def read(self, name, digest=None):
        row = self.header[name]
        begin, end = row["data_offsets"]
        self.stream.seek(self.start + begin)
        data = bytearray(self.stream.read(end - begin))
        if digest is not None and hashlib.sha256(data).hexdigest() != digest:
            raise Failure("tensors")
        dtype = getattr(self.torch, NAMES[row["dtype"]])
        if not data:
            return self.torch.empty(row["shape"], dtype=dtype)
        return self.torch.frombuffer(data, dtype=self.torch.uint8).view(dtype).reshape(row["shape"])


def raw_bytes(tensor):
    """The elements of a dense tensor in row-major order, as bytes."""
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return ctypes.string_at(tensor.data_ptr(), tensor.numel() * tensor.element_size())


class Assembler:
    """Puts tensors together as their descriptions say."""

    def __init__(self, torch, plan):
        self.torch = torch
        self.stored = plan["stored"]
        self.files = {name: TensorFile(torch, path) for name, path in plan["files"].items()}
        self.cache = {}

    def raw(self, name):
        if name not in self.cache:
            row = self.stored[name]
            self.cache[name] = self.files[row["file"]].read(name, row["sha256"])
        return self.cache[name]

    def build(self, row):
        torch = self.torch
        layout, shape, details = row["layout"], row["shape"], row.get("details", {})
        dtype = getattr(torch, row["dtype"])
        if layout == "meta":
            return torch.empty(shape, dtype=dtype, device="meta")
        if layout != "strided":
            parts = {name: self.build(part) for name, part in row["parts"].items()}
            return self.compose(layout, shape, parts, details)
        values = self.raw(row["from"]["stored"])
        encoding = row.get("encoding", "")
        if encoding == "quantised":
            return self.quantised(values, row, details)
        if "strides" in row["from"]:
            flat = values.contiguous().view(-1).view(torch.uint8)[row["from"]["offset_bytes"] :]
            size = torch.empty((), dtype=dtype).element_size()
            flat = flat[: flat.numel() // size * size].clone().view(dtype)
            values = flat.as_strided(shape, row["from"]["strides"])
        elif encoding == "complex":
            values = torch.view_as_complex(values)
        elif encoding == "bits":
            values = values.view(dtype)
        values = values.conj() if details.get("conj") else values
        return torch._neg_view(values) if details.get("neg") else values

    def compose(self, layout, shape, parts, details):
        torch = self.torch
        # Indices that reach beyond the shape would be followed by whatever computes with the tensor.
        known = hasattr(torch.sparse, "check_sparse_tensor_invariants")
        options = {"check_invariants": True} if known else {}
        if layout == "sparse_coo":
            made = torch.sparse_coo_tensor(parts["indices"], parts["values"], shape, **options)
            return made._coalesced_(details.get("is_coalesced", False))
        if layout == "nested":
            names = ("buffer", "sizes", "strides", "offsets")
            return torch._nested_view_from_buffer(*[parts[name] for name in names])
        compressed = parts.get("crow_indices", parts.get("ccol_indices"))
        plain = parts.get("col_indices", parts.get("row_indices"))
        options["layout"] = getattr(torch, layout)
        return torch.sparse_compressed_tensor(compressed, plain, parts["values"], shape, **options)

    def quantised(self, values, row, details):
        torch = self.torch
        if "scheme" not in details:
            raise Failure("a tensor has a quantised type and no quantiser")
        if details["scheme"] == "per_tensor_affine":
            make = torch._make_per_tensor_quantized_tensor
            return make(values, details["scale"], details["zero_point"])
        scales, zeros = [self.build(row["parts"][name]) for name in ("scales", "zero_points")]
        if row["dtype"] in PACKED:
            # No function packs: an empty tensor is filled with the bytes as they are.
            options = {"scales": scales, "zero_points": zeros, "axis": details["axis"]}
            dtype = getattr(torch, row["dtype"])
            made = torch._empty_per_channel_affine_quantized(row["shape"], dtype=dtype, **options)
            count = min(values.numel(), made.untyped_storage().nbytes())
            ctypes.memmove(made.data_ptr(), values.data_ptr(), count)
            return made
        return torch._make_per_channel_quantized_tensor(values, scales, zeros, details["axis"])


def parts_of(tensor):
    """Dense tensors that together are `tensor`, whatever its layout."""
    if str(tensor.layout) == "torch.sparse_coo":
        return [tensor._indices(), tensor._values()]
    if str(tensor.layout) in ("torch.sparse_csr", "torch.sparse_bsr"):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if str(tensor.layout) in ("torch.sparse_csc", "torch.sparse_bsc"):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    if tensor.is_quantized:
        if "per_channel" in str(tensor.qscheme()):
            return [tensor.int_repr(), tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()]
        return [tensor.int_repr()]
    return [tensor]


def is_same(one, other):
    if one.dtype != other.dtype or one.shape != other.shape or one.layout != other.layout:
        return False
    if one.is_quantized and one.qscheme() != other.qscheme():
        return False
    if one.is_quantized and "per_tensor" in str(one.qscheme()):
        return (
            one.q_scale() == other.q_scale()
            and one.q_zero_point() == other.q_zero_point()
            and (raw_bytes(one.int_repr()) == raw_bytes(other.int_repr()))
        )
    pairs = zip(parts_of(one), parts_of(other))  # noqa: B905 - Python 3.8
    return all(a.shape == b.shape and raw_bytes(a) == raw_bytes(b) for a, b in pairs)


def find_class(plan):
    module_name, _, class_name = plan["class_path"].partition(":")
    sys.path[:0] = plan["python_path"]
    found = importlib.import_module(module_name)
    for part in class_name.split("."):
        found = getattr(found, part)
    return found


def names_gpu(torch, value):
    if isinstance(value, torch.device):
        return value.type == "cuda"
    return isinstance(value, str) and value.split(":")[0] == "cuda"


def without_gpu(torch):
    """Where there is no GPU, a class that asks for one gets the CPU: tensors have the same values there."""
    if torch.cuda.is_available() or not hasattr(torch.overrides, "TorchFunctionMode"):
        return contextlib.nullcontext()

    class StayOnCpu(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            name = getattr(function, "__name__", "")
            if name == "cuda" or (name == "to" and len(args) == 2 and type(args[1]) is int):
                return args[0]
            args = ["cpu" if names_gpu(torch, value) else value for value in args]
            kwargs = {n: "cpu" if names_gpu(torch, v) else v for n, v in (kwargs or {}).items()}
            return function(*args, **kwargs)

    return StayOnCpu()


def compare_keys(own, tensors, answer):
    shapes = {name: list(tensor.shape) for name, tensor in own.items() if hasattr(tensor, "shape")}
    answer["missing"] = [[name, shapes[name]] for name in shapes if name not in tensors]
    answer["unexpected"] = [[name, list(tensors[name].shape)] for name in tensors if name not in shapes]
    answer["reshaped"] = [
        [name, list(tensor.shape), shapes[name]]
        for name, tensor in tensors.items()
        if name in shapes and list(tensor.shape) != shapes[name]
    ]
    if answer["missing"] or answer["unexpected"] or answer["reshaped"]:
        raise Failure("keys")


def keep_types(torch, model, tensors):
    """`load_state_dict` converts silently: give each slot the checkpoint's element type first."""
    for name, slot in model.state_dict(keep_vars=True).items():
        if name in tensors and hasattr(slot, "dtype") and slot.dtype != tensors[name].dtype:
            with torch.no_grad():
                slot.data = slot.data.to(tensors[name].dtype)


def write_safetensors(torch, path, tensors, metadata):
    known = [(code, name) for code, name in NAMES.items() if hasattr(torch, name)]
    codes = {getattr(torch, name): code for code, name in known}
    rows, start = {"__metadata__": metadata}, 0
    ordered = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    for name in ordered:
        tensor = tensors[name]
        if tensor.dtype not in codes or str(tensor.layout) != "torch.strided":
            raise Failure("safetensors cannot hold %s (%s): use the layout state-dict" % (name, tensor.dtype))
        size = tensor.numel() * tensor.element_size()
        offsets = [start, start + size]
        rows[name] = {"dtype": codes[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        start += size
    text = json.dumps(rows).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name in ordered:
            stream.write(raw_bytes(tensors[name]))


def load(torch, path, weights_only):
    try:
        return torch.load(path, map_location="cpu", weights_only=weights_only)
    except TypeError:  # before torch 1.13 there is no such argument
        return torch.load(path, map_location="cpu")


def save(torch, plan, model, path):
    tensors = {n: t for n, t in model.state_dict().items() if hasattr(t, "shape")}
    if plan["layout"] == "safetensors":
        # What a consumer needs beside the tensors, so that it needs no pickle: class and arguments.
        metadata = {"format": "pt", "class": plan["class_path"], "keywords": json.dumps(plan["keywords"])}
        write_safetensors(torch, path, tensors, metadata)
    elif plan["layout"] == "state-dict":
        torch.save(model.state_dict(), path)
    else:
        torch.save({"model": model}, path)


def read_back(torch, plan, path):
    if plan["layout"] == "safetensors":
        file = TensorFile(torch, path)
        return {name: file.read(name) for name in file.header}
    if plan["layout"] == "state-dict":
        return load(torch, path, True)
    return load(torch, path, False)["model"].state_dict()


def rebuild(plan, answer):
    answer["step"] = "import torch"
    import torch

    answer["torch"], answer["gpu"] = torch.__version__, torch.cuda.is_available()
    answer["step"] = "reading the tensors"
    assembler = Assembler(torch, plan)
    tensors = {name: assembler.build(row) for name, row in plan["tensors"].items()}
    answer["step"] = "import"
    made = find_class(plan)
    answer["step"] = "construct"
    with without_gpu(torch):
        model = made(**plan["keywords"])
    answer["step"] = "load"
    compare_keys(model.state_dict(), tensors, answer)
    keep_types(torch, model, tensors)
    model.load_state_dict(tensors, strict=True)
    if plan["training"] is not None:
        model.train(plan["training"])
    answer["step"] = "save"
    partial = plan["output"] + ".partial"
    try:
        save(torch, plan, model, partial)
        answer["step"] = "read back"
        found = read_back(torch, plan, partial)
        answer["tensors"] = len(tensors)
        answer["differing"] = [n for n in tensors if n not in found or not is_same(tensors[n], found[n])]
        if answer["differing"]:
            raise Failure("differing")
        os.replace(partial, plan["output"])
    finally:
        if os.path.exists(partial):
            os.remove(partial)
    answer["ok"] = True


def main():
    arguments, path = json.loads(sys.argv[1]), sys.argv[2]
    with open(arguments["plan"], encoding="utf-8") as stream:
        plan = json.load(stream)
    answer = {"ok": False}
    try:
        rebuild(plan, answer)
    except Failure as failure:
        answer["failure"] = str(failure)
    except BaseException as error:  # a class may raise anything, SystemExit included
        answer["error"] = "%s: %s" % (type(error).__name__, error)
    with open(path + ".partial", "w", encoding="utf-8") as stream:
        json.dump(answer, stream)
    os.replace(path + ".partial", path)


if __name__ == "__main__":
    main()
