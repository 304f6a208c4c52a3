"""Rebuilding in an environment of its own: today's class, strict loading, bitwise comparison."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from bringup.checkpoints import convert, rules
from bringup.checkpoints.rules import BuildRequest
from bringup.errors import BringupError
from bringup.recipes.schema import CheckpointRow
from bringup.steps.rebuild import KeysDiffer, output_path, rebuild, request_of
from bringup.steps.target import VirtualEnvironment

MODEL = """
import os
import torch

class Net(torch.nn.Module):
    def __init__(self, width, rigid=False, level=None):
        super().__init__()
        self.rigid, self.level = rigid, level
        self.inner = torch.nn.Linear(3, width)
        self.table = torch.nn.Embedding(5, width)
        self.head = torch.nn.Linear(width, 5, bias=False)
        self.head.weight = self.table.weight

class Crashing(Net):
    def __init__(self, width):
        os.abort()

class Failing(Net):
    def __init__(self, width):
        raise RuntimeError("no weights today")
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "library"
    folder.mkdir()
    (folder / "old_library.py").write_text(MODEL)
    (folder / "new_library.py").write_text(MODEL.replace("self.inner", "self.renamed"))
    monkeypatch.syspath_prepend(str(folder))
    sys.modules.pop("old_library", None)
    return folder


@pytest.fixture
def target() -> VirtualEnvironment:
    return VirtualEnvironment(Path(sys.prefix))


@pytest.fixture
def description(library: Path, tmp_path: Path) -> Path:
    """An old model, converted: `fsaverage6/lh_Rigid.model`, with a NaN that must keep its bits."""
    import old_library  # type: ignore[import-not-found]

    model = old_library.Net(4, rigid=True).half().eval()
    with torch.no_grad():
        model.inner.bias[0] = float("nan")
    path = tmp_path / "fsaverage6" / "lh_Rigid.model"
    path.parent.mkdir()
    torch.save({"model": model}, path)
    return convert(path, tmp_path / "converted").description


def request(library: Path, **changes: Any) -> BuildRequest:
    values: dict[str, Any] = {
        "class_path": "old_library:Net",
        "keywords": {"width": 4, "rigid": "{attribute:rigid}", "level": "{folder}"},
        "python_path": (str(library),),
    }
    return BuildRequest(**(values | changes))


@pytest.mark.parametrize("layout", rules.LAYOUTS)
def test_layouts(
    layout: str, description: Path, library: Path, target: VirtualEnvironment, tmp_path: Path
) -> None:
    output = tmp_path / "new" / "lh_Rigid.model"
    done = rebuild(description, request(library, layout=layout), target, output)
    assert done.tensors == 4 and done.torch == torch.__version__
    if layout == "safetensors":
        found = load_file(output)
        with safe_open(output, "pt") as file:
            metadata = file.metadata()
        assert metadata["class"] == "old_library:Net"
        assert json.loads(metadata["keywords"]) == {"width": 4, "rigid": True, "level": "fsaverage6"}
    elif layout == "state-dict":
        found = torch.load(output, weights_only=True)
    else:
        model = torch.load(output, weights_only=False)["model"]
        found = model.state_dict()
        assert model.rigid is True and model.level == "fsaverage6" and not model.training
        assert model.head.weight is model.table.weight
    assert found["inner.bias"].dtype == torch.float16 and found["inner.bias"][0].isnan()
    assert sorted(found) == ["head.weight", "inner.bias", "inner.weight", "table.weight"]
    assert list(output.parent.iterdir()) == [output]


def test_keys_that_do_not_fit(
    description: Path, library: Path, target: VirtualEnvironment, tmp_path: Path
) -> None:
    output = tmp_path / "new.safetensors"
    with pytest.raises(KeysDiffer) as caught:
        wanted = request(library, class_path="new_library:Net", keywords={"width": 6})
        rebuild(description, wanted, target, output)
    rows = {(problem.kind, problem.key): problem.nearest for problem in caught.value.problems}
    assert rows[("missing", "renamed.bias")] == "inner.bias"
    assert rows[("unexpected", "inner.weight")] == "renamed.weight"
    assert ("reshaped", "table.weight") in rows
    assert not output.exists()
    renamed = request(library, class_path="new_library:Net", rename={r"^inner\.": "renamed."})
    rebuild(description, renamed, target, output)
    assert "renamed.weight" in load_file(output)


@pytest.mark.parametrize(
    "class_path, id, words",
    [
        ("old_library:Crashing", "rebuild-crashed", "SIGABRT"),
        ("old_library:Failing", "rebuild-failed", "no weights today"),
        ("old_library:Absent", "rebuild-failed", "Absent"),
        ("absent_library:Net", "rebuild-failed", "absent_library"),
        ("old_library", "rebuild-class-path", "old_library"),
        ("old_library:Net()", "rebuild-class-path", "Net()"),
    ],
)
def test_failures_are_results(
    class_path: str, id: str, words: str, description: Path, library: Path, target: Any, tmp_path: Path
) -> None:
    output = tmp_path / "new.safetensors"
    with pytest.raises(BringupError) as caught:
        rebuild(description, request(library, class_path=class_path, keywords={"width": 4}), target, output)
    assert caught.value.id == id and words in str(caught.value)
    assert not output.exists()


def test_changed_tensors_are_noticed(description: Path, library: Path, target: Any, tmp_path: Path) -> None:
    file = description.with_suffix(".safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(BringupError, match="rebuild-tensors"):
        rebuild(description, request(library), target, tmp_path / "new")


def test_every_layout_of_tensors_passes_through(target: Any, tmp_path: Path, library: Path) -> None:
    (library / "buffers.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.register_buffer('z', torch.zeros(2, 3, dtype=torch.complex128))\n"
        "        self.register_buffer('f', torch.zeros(4).to(torch.float8_e4m3fnuz))\n"
        "        self.register_buffer('n', torch.zeros((), dtype=torch.long))\n"
    )
    value = {"z": torch.randn(3, 2, dtype=torch.complex128).t(), "n": torch.tensor(7)}
    value["f"] = torch.randn(4).to(torch.float8_e4m3fnuz)
    torch.save(value, tmp_path / "x.pt")
    description = convert(tmp_path / "x.pt", tmp_path / "out").description
    wanted = BuildRequest("buffers:Net", layout="state-dict", python_path=(str(library),))
    rebuild(description, wanted, target, tmp_path / "y.pt")
    found = torch.load(tmp_path / "y.pt", weights_only=True)
    assert torch.equal(found["z"], value["z"]) and found["n"] == 7


def test_half_way_files_of_the_manual_way(library: Path, target: VirtualEnvironment, tmp_path: Path) -> None:
    import old_library

    state = old_library.Net(4).state_dict()
    path = tmp_path / "state_dicts" / "lh_Rigid_904_fsaverage6.pt"
    path.parent.mkdir()
    torch.save({"state_dict": state, "rigid": True, "ico_level": "fsaverage6"}, path)
    description = convert(path, tmp_path / "converted").description
    row = CheckpointRow(
        files="fsaverage?/?h_*Rigid_904_fsaverage?.model",
        class_path="old_library:Net",
        keywords={"width": 4, "rigid": "{attribute:rigid}", "level": "{attribute:ico_level|folder}"},
        layout="module",
        python_path=(str(library),),
    )
    document = rules.read_description(description)
    assert rules.fits(row.files, document)
    output = tmp_path / "new.model"
    rebuild(description, request_of(row), target, output)
    model = torch.load(output, weights_only=False)["model"]
    assert model.level == "fsaverage6" and model.rigid is True


DOCUMENT: dict[str, Any] = {
    "source": {"file": "lh_Rigid_904_fsaverage6.model", "folder": "fsaverage6"},
    "model": ["model"],
    "tree": {
        "epoch": 3,
        "hyper_parameters": {"lr": 0.1},
        "model": {"$module": "x.Net", "attributes": {"rigid": True, "f": {"$global": "torch.sin"}}},
    },
}


@pytest.mark.parametrize(
    "template, value",
    [
        ("{attribute:rigid}", True),
        ("{attribute:lr}", 0.1),
        ("{attribute:epoch}", 3),
        ("{attribute:level|folder}", "fsaverage6"),
        ("{attribute:level|default:null}", None),
        ("{stem}-{attribute:epoch}", "lh_Rigid_904_fsaverage6-3"),
        (20, 20),
        ("plain", "plain"),
    ],
)
def test_templates(template: Any, value: Any) -> None:
    assert rules.fill(template, DOCUMENT) == value


@pytest.mark.parametrize("template", ["{attribute:f}", "{attribute:nothing}", "{unknown}"])
def test_templates_that_cannot_be_filled(template: str) -> None:
    with pytest.raises(BringupError, match="rebuild-template"):
        rules.fill(template, DOCUMENT)


@pytest.mark.parametrize(
    "pattern, fits",
    [
        ("**/fsaverage6/lh_Rigid_904_fsaverage6.model", True),
        ("?h_Rigid_904_fsaverage6.model", True),
        ("SUGAR/model_files/fsaverage*/?h_*Rigid_904_fsaverage?.model", True),
        ("?h_NoRigid_904_fsaverage?.model", False),
        ("fsaverage5/*.model", False),
    ],
)
def test_patterns(pattern: str, fits: bool) -> None:
    assert rules.fits(pattern, DOCUMENT) is fits


def test_rename_rules() -> None:
    assert rules.rename(["module.a.w", "b"], {r"^module\.": ""}) == {"module.a.w": "a.w", "b": "b"}
    for broken in ({"(": ""}, {".*": "same"}, {"a": r"\9"}):
        with pytest.raises(BringupError, match="rebuild-rename"):
            rules.rename(["ab", "a"], broken)


@pytest.mark.parametrize(
    "destination, layout, place",
    [
        ("{path}", "module", "fsaverage6/lh_Rigid_904_fsaverage6.model"),
        ("{path}", "safetensors", "fsaverage6/lh_Rigid_904_fsaverage6.safetensors"),
        ("models/{file}", "state-dict", "models/lh_Rigid_904_fsaverage6.pt"),
    ],
)
def test_destinations(destination: str, layout: str, place: str, tmp_path: Path) -> None:
    assert output_path(tmp_path, destination, layout, DOCUMENT) == tmp_path / place


@pytest.mark.parametrize("destination", ["/etc/passwd", "../{file}"])
def test_destinations_outside_are_refused(destination: str, tmp_path: Path) -> None:
    with pytest.raises(BringupError, match="rebuild-template"):
        output_path(tmp_path, destination, "module", DOCUMENT)


def test_descriptions_of_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text in ("{", "[]", json.dumps({"schema": "other/1"})):
        path.write_text(text)
        with pytest.raises(BringupError, match="rebuild-description"):
            rules.read_description(path)


def test_the_commands(
    description: Path,
    library: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    save: Callable[..., Path],
) -> None:
    from bringup.cli.main import run

    arguments = ["rebuild", str(description), "--env", sys.prefix, "--class", "old_library:Net"]
    arguments += ["--kwargs", '{"width": 4}', "--path", str(library), "-o", str(tmp_path / "new"), "--json"]
    assert run(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "bringup/rebuild/1" and document["checkpoints"][0]["ok"]
    assert (tmp_path / "new" / "lh_Rigid.safetensors").exists()
    assert run(arguments) == 1  # it stands there already
    assert run([*arguments, "--force"]) == 0
    assert run([*arguments, "--force", "--rename", "inner=outer"]) == 1
    rows = json.loads(capsys.readouterr().out.split("\n}\n")[-2] + "\n}")["checkpoints"][0]["keys"]
    assert {row["key"] for row in rows} == {"inner.weight", "inner.bias", "outer.weight", "outer.bias"}
    assert run([*arguments, "--kwargs", "[]"]) == 2
    assert run([*arguments, "--layout", "other"]) == 2


GPU_MODEL = """
import torch

class Net(torch.nn.Module):
    def __init__(self, how):
        super().__init__()
        make = {
            "to": lambda: torch.ones(2).to("cuda"),
            "to_number": lambda: torch.ones(2).to(0),
            "to_keyword": lambda: torch.ones(2).to(device=torch.device("cuda:0"), dtype=torch.float32),
            "cuda": lambda: torch.ones(2).cuda(),
            "zeros": lambda: torch.zeros(2, device="cuda"),
            "module": lambda: torch.nn.Linear(1, 2, device="cuda").cuda().weight[:, 0],
            "asked": lambda: torch.ones(torch.cuda.current_device() + 2),
        }
        self.index = [make[how]()]
        self.w = torch.nn.Parameter(torch.zeros(3))
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
@pytest.mark.parametrize("how", ["to", "to_number", "to_keyword", "cuda", "zeros", "module", "asked"])
def test_classes_that_want_a_gpu(how: str, target: VirtualEnvironment, tmp_path: Path) -> None:
    (tmp_path / "gpu_library.py").write_text(GPU_MODEL)
    torch.save({"w": torch.ones(3)}, tmp_path / "x.pt")
    description = convert(tmp_path / "x.pt", tmp_path / "out").description
    wanted = BuildRequest("gpu_library:Net", {"how": how}, python_path=(str(tmp_path),))
    if how == "asked":
        with pytest.raises(BringupError) as caught:
            rebuild(description, wanted, target, tmp_path / "new.safetensors")
        assert caught.value.id == "rebuild-needs-gpu"
        return
    rebuild(description, wanted, target, tmp_path / "new.safetensors")
    assert load_file(tmp_path / "new.safetensors")["w"].tolist() == [1, 1, 1]
