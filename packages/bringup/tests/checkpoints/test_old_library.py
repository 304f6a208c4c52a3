"""Whole modules of torch_geometric 2.2.0, pickled by the real library, read where it is absent,
and rebuilt with today's release: the ten models of SUGAR in small."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bringup.checkpoints import convert_all, open_checkpoint, unimportable_classes
from bringup.cli.main import run
from bringup.errors import BringupError

# torch_geometric 2.2.0 imports two compiled libraries at its top, though GATv2Conv in training form needs
# none of their functions: these two stand in for them, with the one class that annotations name.
STAND_INS = {
    "torch_sparse/__init__.py": "from .tensor import SparseTensor\n",
    "torch_sparse/tensor.py": "class SparseTensor:\n    pass\n",
    "torch_scatter/__init__.py": "",
}
MISSING_FUNCTIONS = """
def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return lambda *arguments, **keywords: None
"""

# A network of our own with the traits that matter: attention layers, a shared linear layer inside them,
# index tensors in lists, a function and a plain flag as attributes, the constructor of SUGAR's call site.
LIBRARY = """
import torch
from torch_geometric.nn import GATv2Conv

class Block(torch.nn.Module):
    def __init__(self, wide, narrow, heads):
        super().__init__()
        self.conv1 = GATv2Conv(wide, narrow // heads, heads, edge_dim=27, share_weights=True, bias=True)
        self.act = torch.nn.LeakyReLU()
        self.conv2 = GATv2Conv(narrow, narrow // heads, heads, edge_dim=27, share_weights=True, bias=True)

class GatUNet(torch.nn.Module):
    def __init__(self, in_channels, out_channels, num_heads, dropout, use_position_decoding, use_residual,
                 ico_level, input_dropout=0.0, euler_scale=None, rigid=False):
        super().__init__()
        self.rigid, self.euler_scale, self.ico_level = rigid, euler_scale, ico_level
        depth = int(ico_level[-1]) - 1
        self.functions = [torch.sin, torch.cos]
        self.activate_layer = torch.nn.functional.leaky_relu
        widths = [in_channels] + [8 * 2 ** i for i in range(depth)]
        self.encoding_layers = torch.nn.ModuleList(
            Block(a, b, num_heads) for a, b in zip(widths, widths[1:]))
        self.encoding_edge_index = [(torch.arange(6).reshape(2, 3), torch.rand(3, 27)) for _ in range(depth)]
        self.output = Block(widths[-1], out_channels, 1)
"""

WRITER = """
import sys, torch, torch_geometric
from pathlib import Path
from gatunet_model import GatUNet
assert torch_geometric.__version__ == "2.2.0"
torch.manual_seed(0)
for level in (3, 4, 5, 6):
    for hemisphere in ("lh", "rh"):
        for kind in ("NoRigid", "Rigid") if level == 6 else ("NoRigid",):
            model = GatUNet(20, 3, 8, 0.0, True, False, f"fsaverage{level}", 0, None, kind == "Rigid").eval()
            path = Path(sys.argv[1]) / f"fsaverage{level}" / f"{hemisphere}_{kind}_904_fsaverage{level}.model"
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save({"model": model}, path)
            torch.save(model.state_dict(), path.with_suffix(".expected"))
"""

RECIPE = """
schema = "bringup/recipe/1"
name = "sugar"
title = {en = "SUGAR", zh = "SUGAR"}
summary = {en = "SUGAR", zh = "SUGAR"}
python = ">=3.10"
torch = {range = ">=2"}

[[checkpoints]]
files = "SUGAR/model_files/fsaverage?/?h_*Rigid_904_fsaverage?.model"
class_path = "gatunet_model:GatUNet"
layout = "module"
destination = "SUGAR/model_files/{path}"

[checkpoints.keywords]
in_channels = 20
out_channels = 3
num_heads = 8
dropout = 0.0
use_position_decoding = true
use_residual = false
ico_level = "{attribute:ico_level|folder}"
input_dropout = 0
rigid = "{attribute:rigid}"
"""


def _install(folder: Path, *requirements: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), *requirements]
    subprocess.run(command, check=True)


@pytest.fixture(scope="module")
def old_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pickled models, made by a process that has the old library."""
    folder = tmp_path_factory.mktemp("old")
    # torch_geometric's requirements of that time, without torch, which this environment lends.
    _install(folder, "tqdm", "jinja2", "requests", "pyparsing", "psutil", "scipy", "scikit-learn", "numpy")
    _install(folder, "--no-deps", "torch_geometric==2.2.0")
    for name, text in STAND_INS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text + (MISSING_FUNCTIONS if name.endswith("__init__.py") else ""))
    (folder / "gatunet_model.py").write_text(LIBRARY)
    models = tmp_path_factory.mktemp("model_files")
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    subprocess.run([sys.executable, "-W", "ignore", "-c", WRITER, str(models)], check=True, env=environment)
    return models


@pytest.mark.slow
def test_ten_models_of_an_absent_library(old_models: Path, tmp_path: Path) -> None:
    assert importlib.util.find_spec("torch_geometric") is None
    paths = sorted(old_models.glob("*/*.model"))
    assert len(paths) == 10
    with open_checkpoint(paths[0]) as checkpoint:
        assert checkpoint.verdict == "unknown-classes"
        missing = unimportable_classes(checkpoint, ["torch", "inspect", "typing", "operator", "_operator"])
        assert (
            "torch_geometric.nn.conv.gatv2_conv.GATv2Conv" in missing and "gatunet_model.GatUNet" in missing
        )
    for done in convert_all(paths, tmp_path / "converted"):
        assert not isinstance(done, BringupError), done
        document = json.loads(done.description.read_text(encoding="utf-8"))
        expected = torch.load(done.source.with_suffix(".expected"), weights_only=True)
        names = [name for name, row in document["tensors"].items() if row["part_of"] == "model"]
        assert names == list(expected)
        found = load_file(done.files[0])
        for name in names:
            origin = document["tensors"][name]["from"]["stored"]
            assert torch.equal(found[origin], expected[name]), name
        attributes = document["tree"]["model"]["attributes"]
        assert attributes["rigid"] is ("_Rigid_" in done.source.name)


@pytest.mark.slow
def test_they_are_rebuilt_with_todays_library(
    old_models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    today = tmp_path / "today"
    _install(today, "torch_geometric>=2.3", "numpy")
    (today / "gatunet_model.py").write_text(LIBRARY)
    (tmp_path / "sugar.toml").write_text(RECIPE)
    paths = sorted(str(path) for path in old_models.glob("*/*.model"))
    assert run(["convert", *paths, "-o", str(tmp_path / "converted")]) == 0
    descriptions = sorted(str(path) for path in (tmp_path / "converted").glob("*.json"))
    command = ["rebuild", *descriptions, "--env", sys.prefix, "--recipe", str(tmp_path / "sugar.toml")]
    command += ["--path", str(today), "-o", str(tmp_path / "new"), "--lang", "en"]
    assert run(command) == 0
    output = capsys.readouterr()
    assert output.out.count("equal bit by bit") == 10 and "weights_only=False" in output.err
    made = sorted(path.name for path in (tmp_path / "new" / "SUGAR" / "model_files").glob("*/*.model"))
    assert made == sorted(Path(path).name for path in paths)


# The consumer's call site as SUGAR has it, and the patch that docs/checkpoints.md gives for it.
CALL_SITE = """
import sys
import torch

def predict(model_files, device):
    for model_file in model_files:
        model = torch.load(model_file, map_location=device)['model']
        model.to(device)
        model.eval()
        print(type(model).__name__, model.ico_level, model.rigid)

predict(sys.argv[1:], "cpu")
"""


def documented_patch() -> tuple[str, str]:
    """Fault and replacement, read from the document."""
    text = (Path(__file__).parents[4] / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    fault = re.search(r"^    fault = '''(.*)'''$", text, re.MULTILINE)
    value = re.search(r"^    value = '''(.*?)'''$", text, re.MULTILINE | re.DOTALL)
    assert fault and value
    return fault[1], value[1].replace("\n    ", "\n")


@pytest.mark.slow
def test_the_patched_consumer_opens_no_pickle(old_models: Path, tmp_path: Path) -> None:
    today = tmp_path / "today"
    _install(today, "torch_geometric>=2.3", "numpy", "safetensors")
    (today / "gatunet_model.py").write_text(LIBRARY)
    (tmp_path / "sugar.toml").write_text(RECIPE)
    paths = [str(path) for path in sorted(old_models.glob("fsaverage6/lh*.model"))]
    assert run(["convert", *paths, "-o", str(tmp_path / "converted")]) == 0
    descriptions = sorted(str(path) for path in (tmp_path / "converted").glob("*.json"))
    command = ["rebuild", *descriptions, "--env", sys.prefix, "--recipe", str(tmp_path / "sugar.toml")]
    command += ["--path", str(today), "-o", str(tmp_path / "new"), "--layout", "safetensors"]
    assert run(command) == 0
    fault, value = documented_patch()
    patched, count = re.subn(fault, value, CALL_SITE, flags=re.MULTILINE)
    assert count == 1 and "torch.load(" not in patched
    (tmp_path / "consumer.py").write_text(patched)
    folder = tmp_path / "new" / "SUGAR" / "model_files" / "fsaverage6"
    arguments = [str(folder / Path(path).name) for path in paths]
    environment = {**os.environ, "PYTHONPATH": str(today)}
    command = [sys.executable, "-W", "ignore", str(tmp_path / "consumer.py"), *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert done.stdout.splitlines() == ["GatUNet fsaverage6 False", "GatUNet fsaverage6 True"]
