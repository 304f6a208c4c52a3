"""Whole modules of torch_geometric 2.2.0, pickled by the real library, read where it is absent, rebuilt with
today's release by DeepPrep's recipe, and opened by its patched call site: the ten models of SUGAR in small."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bringup.checkpoints import convert_all, open_checkpoint, unimportable_classes
from bringup.cli.main import run
from bringup.errors import BringupError
from bringup.plan.steps import PatchSource
from bringup.recipes import load
from bringup.steps.patches import patch_source

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
# index tensors in lists that ask for a GPU, a function and a plain flag as attributes, the constructor of SUGAR's
# call site.
POOLING = """
import torch

def get_network_index(ico_level, pe=None, device='cuda'):
    return torch.arange(6).reshape(2, 3).to(device), torch.rand(3, 27).to(device)
"""
LIBRARY = """
import torch
from torch_geometric.nn import GATv2Conv
from utils.pooling import get_network_index

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
        self.encoding_edge_index = [get_network_index(ico_level) for _ in range(depth)]
        self.output = Block(widths[-1], out_channels, 1)
"""

WRITER = """
import sys, torch, torch_geometric
from pathlib import Path
import utils.pooling
utils.pooling.get_network_index.__defaults__ = (None, "cpu")  # a machine with a GPU made the real ones
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


def _install(folder: Path, *requirements: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), *requirements]
    subprocess.run(command, check=True)


def _write_library(folder: Path) -> None:
    (folder / "utils").mkdir(parents=True, exist_ok=True)
    (folder / "utils" / "pooling.py").write_text(POOLING)
    (folder / "gatunet_model.py").write_text(LIBRARY)


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
    _write_library(folder)
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


@pytest.fixture(scope="module")
def today(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Today's libraries, beside the torch of this environment."""
    folder = tmp_path_factory.mktemp("today")
    _install(folder, "torch_geometric>=2.3", "numpy", "safetensors")
    return folder


# The consumer's call site as SUGAR has it.
CALL_SITE = """
import sys
import torch

def predict(model_files, device):
    for model_file in model_files:
        model = torch.load(model_file, map_location=device)['model']
        model.to(device)
        model.eval()
        indices = {index.device.type for row in model.encoding_edge_index for index in row}
        print(type(model).__name__, model.rigid, model.training, indices)
        for name, tensor in torch.load.original(model_file + ".state").items():
            assert torch.equal(model.state_dict()[name], tensor), name

predict(sys.argv[1:], "cpu")
"""
# Whoever unpickles, in Python or in C, ends here; tensors alone are still loaded, to compare with.
TRAP = """
import functools, pickle, _pickle, runpy, sys, torch, torch_geometric.nn, safetensors

def trap(*arguments, **keywords):
    raise SystemExit("a pickle was opened")

trap.original = functools.partial(torch.load, weights_only=True)
torch.load = pickle.load = pickle.loads = pickle.Unpickler = _pickle.Unpickler = _pickle.loads = trap
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A checkout with the files that the recipe's patches name."""
    folder = tmp_path / "source"
    _write_library(folder / "deepprep" / "SUGAR")
    patch = next(row for row in load("deepprep").patches if row.id == "sugar-builds-gatunet")
    (folder / patch.files).write_text(CALL_SITE)
    return folder


def apply_patches(folder: Path, profile: str) -> list[str]:
    """The recipe's edits of its own; returns the changed files."""
    changed = []
    for row in load("deepprep").patches:
        ours = row.files.startswith("deepprep/SUGAR/") and (not row.profiles or profile in row.profiles)
        if row.kind == "replace" and ours:
            step = PatchSource(id=row.id, files=row.files, fault=row.fault, action=row.kind, value=row.value)
            changed += patch_source(step, folder, {})
    return changed


def rebuild_all(
    old_models: Path, pattern: str, folders: list[Path], folder: Path, *options: str
) -> list[Path]:
    """Convert and rebuild by the recipe, with the state dicts of the originals beside the results."""
    paths = sorted(str(path) for path in old_models.glob(pattern))
    assert run(["convert", *paths, "-o", str(folder / "converted"), "--lang", "en"]) == 0
    descriptions = sorted(str(path) for path in (folder / "converted").glob("*.json"))
    command = ["rebuild", *descriptions, "--env", sys.prefix, "--recipe", "deepprep", "--lang", "en"]
    for path in folders:
        command += ["--path", str(path)]
    assert run([*command, "-o", str(folder / "new"), *options]) == 0
    models = [folder / "new" / Path(path).relative_to(old_models) for path in paths]
    for path, model in zip(paths, models, strict=True):
        model.with_name(model.name + ".state").write_bytes(Path(path).with_suffix(".expected").read_bytes())
    return models


def consume(source: Path, today: Path, models: list[Path], trapped: bool) -> list[str]:
    """What the call site prints."""
    consumer = next((source / "deepprep" / "SUGAR").glob("sphere_*.py"))
    if not trapped:
        consumer.write_text(consumer.read_text().replace("torch.load.original", "torch.load"))
    start = ["-c", TRAP, str(consumer)] if trapped else [str(consumer)]
    environment = {**os.environ, "PYTHONPATH": f"{consumer.parent}{os.pathsep}{today}"}
    command = [sys.executable, "-W", "ignore", *start, *map(str, models)]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment
    ).stdout.splitlines()


def expected_lines(models: list[Path]) -> list[str]:
    return [f"GatUNet {'_Rigid_' in model.name} False {{'cpu'}}" for model in models]


@pytest.mark.slow
def test_the_patched_consumer_opens_no_pickle(
    old_models: Path, today: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rebuilt from the sources as they are, on a machine without a GPU; then opened by the patched call site."""
    models = rebuild_all(old_models, "*/*.model", [source / "deepprep" / "SUGAR", today], tmp_path)
    assert capsys.readouterr().out.count("equal bit by bit") == 10
    for model in models:
        found, expected = load_file(model.with_suffix(".safetensors")), torch.load(f"{model}.state")
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    with pytest.raises(subprocess.CalledProcessError) as caught:
        consume(source, today, models, trapped=True)
    assert "a pickle was opened" in caught.value.stderr
    assert len(apply_patches(source, "portable")) == 2 and apply_patches(source, "portable") == []
    assert consume(source, today, models, trapped=True) == expected_lines(models)


@pytest.mark.slow
def test_the_other_profile_keeps_whole_modules(
    old_models: Path, today: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [source / "deepprep" / "SUGAR", today]
    models = rebuild_all(old_models, "fsaverage6/*.model", folders, tmp_path, "--layout", "module")
    output = capsys.readouterr()
    assert output.out.count("equal bit by bit") == 4 and output.err.count("weights_only=False") == 4
    assert len(apply_patches(source, "compiled")) == 1
    assert consume(source, today, models, trapped=False) == expected_lines(models)
