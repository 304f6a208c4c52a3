"""What the Dockerfile says, and what goes into it: from recipes, without an engine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import jsonschema
import pytest
from packaging.requirements import Requirement

from bringup.binaries.architectures import ComputeCapability
from bringup.catalog import load as load_catalog
from bringup.errors import BringupError
from bringup.facts.gpus import DriverFacts
from bringup.recipes import Recipe, built_in, load
from bringup.steps.image.context import dockerignore, write_context
from bringup.steps.image.dockerfile import dockerfile, requirement_lines
from bringup.steps.image.spec import ImageSpec, ImageWishes, make_spec

WORKLOAD = Path(__file__).parent / "workload.toml"
BLACKWELL = (ComputeCapability(12, 0),)


def spec_of(recipe: Recipe | str = str(WORKLOAD), **wishes: object) -> ImageSpec:
    chosen = load(recipe) if isinstance(recipe, str) else recipe
    return make_spec(chosen, load_catalog(), ImageWishes(**({"gpus": BLACKWELL} | wishes)))  # type: ignore[arg-type]


def instructions(text: str) -> list[str]:
    """Instructions with their continued lines joined, comments left out."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [line for line in joined.splitlines() if line]


RECIPES = [(name, None) for name in built_in()] + [(str(WORKLOAD), "portable"), (str(WORKLOAD), "compiled")]


@pytest.mark.parametrize(("recipe", "profile"), RECIPES, ids=lambda value: Path(str(value)).stem)
def test_every_recipe_makes_one_sound_file(recipe: str, profile: str | None) -> None:
    spec = spec_of(recipe, profile=profile)
    lines = instructions(dockerfile(spec, load_catalog()))
    stages = [index for index, line in enumerate(lines) if line.startswith("FROM ")]
    assert len(stages) >= 2
    # podman and buildah ask for the registry of a short name, or refuse it where none is configured.
    assert spec.base.startswith("docker.io/") or recipe == str(WORKLOAD)
    final = lines[stages[-1] :]
    # The final stage gets what changed by one COPY, and installs nothing.
    assert [line for line in final if line.startswith("COPY")] == ["COPY --from=site /changes/ /"]
    assert not any("pip install" in line or "apt-get" in line for line in final)
    runs = [line for line in lines if line.startswith("RUN ")]
    for line in runs:
        # Every RUN stops at the first failure; every cache is a mount, never part of a layer.
        assert re.match(r"RUN (--mount=\S+ )*set -eu; ", line), line
        if "apt-get" in line:
            assert "--mount=type=cache,target=/var/cache/apt" in line
            assert "--mount=type=cache,target=/var/lib/apt" in line
            assert "install -y --no-install-recommends" in line
        if "pip install" in line:
            assert "--mount=type=cache,target=/root/.cache/pip" in line
    assert not any(line.startswith("ADD ") or "sudo " in line for line in lines)
    assert not any(word in line for line in lines for word in ("password", "token", "PIP_INDEX_URL"))


@pytest.mark.parametrize(("recipe", "profile"), RECIPES, ids=lambda value: Path(str(value)).stem)
def test_the_shell_understands_every_step(recipe: str, profile: str | None) -> None:
    for line in instructions(dockerfile(spec_of(recipe, profile=profile), load_catalog())):
        if line.startswith("RUN "):
            command = re.sub(r"^RUN (--mount=\S+ )*", "", line)
            checked = subprocess.run(["sh", "-n", "-c", command], capture_output=True, text=True)
            assert checked.returncode == 0, checked.stderr + command


def test_the_portable_way_needs_no_compiler() -> None:
    text = dockerfile(spec_of(), load_catalog())
    assert "portable_kernels install --force --shim torch_scatter" in text
    assert not re.search(r"nvidia/cuda|g\+\+|TORCH_CUDA_ARCH_LIST", text)


def test_a_chip_too_old_for_portable_kernels_gets_the_next_way() -> None:
    spec = spec_of(gpus=(ComputeCapability(7, 0),))
    assert [choice.ways for choice in spec.extensions] == [("wheel", "build"), ("drop",)]


def test_the_compiled_way_brings_its_compiler_into_the_builder_alone() -> None:
    spec = spec_of(profile="compiled")
    text = dockerfile(spec, load_catalog())
    builder, _, final = text.rpartition("FROM ")
    assert "nvidia/cuda:12.8.0-devel" in builder
    assert "from=cuda" in builder
    assert "TORCH_CUDA_ARCH_LIST=12.0" in builder
    assert "https://data.pyg.org/whl/torch-2.7.0+cu128.html" in builder
    assert "submodule update --quiet --init --recursive" in builder
    assert "edit.py --source /tmp/source/torch-scatter --of torch-scatter" in builder
    assert "/tmp/source/torch-scatter/python" in builder
    assert "cuda" not in final.lower()
    assert spec.requirements[:3] == (
        "torch===2.7.0+cu128",
        "torchvision===0.22.0+cu128",
        "torchaudio===2.7.0+cu128",
    )


def test_requirements_follow_the_recipe() -> None:
    spec = spec_of()
    lines = requirement_lines(spec)
    assert lines[0].startswith("torch===")
    assert "idna>=3.7" in lines
    assert not any(Requirement(line).name == "toml" for line in lines)
    assert any(line.startswith("portable-kernels[cu1") for line in lines)
    assert set(spec.drop) >= {"toml", "pyg-lib", "torchvision", "torchaudio"}


@pytest.mark.parametrize(
    ("wishes", "error"),
    [
        ({"gpus": (ComputeCapability(3, 0),)}, "chip-blocks"),
        ({"driver": DriverFacts("470.10", (11, 4))}, "driver-blocks"),
        ({"profile": "nonsense"}, "unknown-profile"),
        ({"profile": "compiled", "python_version": "3.14"}, "no-torch"),
    ],
)
def test_what_cannot_work_is_refused(wishes: dict[str, object], error: str) -> None:
    with pytest.raises(BringupError, match=error):
        spec_of(**wishes)


def test_a_recipe_that_needs_a_gpu_wants_one_named() -> None:
    recipe = load(str(WORKLOAD))
    needs = recipe.needs.model_copy(update={"gpu": "required"})
    with pytest.raises(BringupError, match="image-gpu-required"):
        spec_of(recipe.model_copy(update={"needs": needs}), gpus=())


def test_the_driver_of_this_machine_limits_the_choice() -> None:
    newest = spec_of()
    older = spec_of(driver=DriverFacts("570.86.10", (12, 8)))
    assert newest.torch is not None
    assert older.torch is not None
    assert newest.torch.cuda is not None
    assert newest.torch.cuda.startswith("13")
    assert older.torch.cuda is not None
    assert older.torch.cuda.startswith("12")


def test_another_base_is_taken_as_given() -> None:
    spec = spec_of(base="nvcr.io/nvidia/pytorch:25.10-py3", python="/usr/bin/python3", keep_torch=True)
    text = dockerfile(spec, load_catalog())
    assert "ARG BASE=nvcr.io/nvidia/pytorch:25.10-py3" in text
    assert "ARG PYTHON=/usr/bin/python3" in text
    assert not any(line.startswith("torch=") for line in requirement_lines(spec))
    # Its code is not in that base: the build brings it.
    assert "git clone" in text
    assert "WORKDIR /opt/workload" in text


def test_the_bases_user_is_restored() -> None:
    assert dockerfile(spec_of(), load_catalog(), "jovyan").rstrip().endswith("USER jovyan")


def test_offline_asks_no_index(tmp_path: Path) -> None:
    spec = spec_of("prostate-ssl", gpus=(), find_links=(tmp_path,), offline=True)
    text = dockerfile(spec, load_catalog())
    assert "PIP_NO_INDEX=1" in text
    assert "--mount=type=bind,from=wheels0,target=/wheels0" in text
    assert "TORCH_INDEX" not in text


def test_the_context_holds_what_is_sent_and_nothing_else(tmp_path: Path) -> None:
    spec = spec_of()
    folder = tmp_path / "image"
    text = dockerfile(spec, load_catalog())
    write_context(spec, folder, text, {"build.cmd": "@echo off\r\n"})
    assert (folder / "build.cmd").read_bytes() == b"@echo off\r\n"
    assert b"\r" not in (folder / "Dockerfile").read_bytes()
    sent = {line[1:] for line in dockerignore().splitlines() if line.startswith("!")}
    assert dockerignore().startswith("*\n")
    assert all((folder / name).exists() for name in sent - {"source"})
    assert (folder / "own" / "bringup" / "pyproject.toml").is_file()
    assert not list((folder / "own").rglob("__pycache__"))
    assert load(str(folder / "recipe.toml")) == load(str(WORKLOAD))
    described = json.loads((folder / "image.json").read_text())
    assert [row["id"] for row in described["edits"]] == ["safe-load"]
    # Again into the same folder; never into somebody else's.
    write_context(spec, folder, text, {})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(BringupError, match="image-folder-taken"):
        write_context(spec, tmp_path / "mine", text, {})
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_a_local_copy_of_the_source_takes_the_place_of_the_repository(tmp_path: Path) -> None:
    (tmp_path / "code" / ".git").mkdir(parents=True)
    (tmp_path / "code" / "run.py").write_text("print(1)\n")
    spec = spec_of("triposr", source=tmp_path / "code")
    text = dockerfile(spec, load_catalog())
    assert "git clone" not in text
    assert "cp -R /bringup/source/. /changes/opt/triposr" in text
    assert "WORKDIR /opt/triposr" in text
    # The context may lie inside the source that it takes a copy of.
    folder = tmp_path / "code" / "image"
    write_context(spec, folder, text, {})
    write_context(spec, folder, text, {})
    assert sorted(path.name for path in (folder / "source").iterdir()) == ["run.py"]
    # Code that the base has is laid over, and its working folder stays the base's.
    over = dockerfile(spec_of(source=tmp_path / "code"), load_catalog())
    assert "cp -R /bringup/source/. /changes/opt/lab" in over
    assert "edit.py --source /changes/opt/lab" in over
    assert "WORKDIR" not in over


@pytest.mark.parametrize(
    ("recipe", "folder", "error"),
    [("triposr", "nowhere", "no-source"), ("prostate-ssl", ".", "image-without-source")],
)
def test_a_source_that_cannot_be_taken(recipe: str, folder: str, error: str, tmp_path: Path) -> None:
    with pytest.raises(BringupError, match=error):
        spec_of(recipe, source=tmp_path / folder)


def test_the_same_inputs_give_the_same_file() -> None:
    assert dockerfile(spec_of(), load_catalog()) == dockerfile(spec_of(), load_catalog())


def bringup(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"BRINGUP_HOME": str(folder / "home"), "LC_ALL": "C.UTF-8", "COLUMNS": "200"}
    command = [sys.executable, "-c", "from bringup.cli.main import main; main()", "image", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=300)


def test_the_command_writes_and_says_what_to_type(tmp_path: Path) -> None:
    links = tmp_path / "wheels"
    links.mkdir()
    arguments = ("--gpu", "RTX 5090", "--offline", "--find-links", str(links), "-o", "out")
    ran = bringup(str(WORKLOAD), *arguments, "--json", folder=tmp_path)
    assert ran.returncode == 0, ran.stderr
    document = json.loads(ran.stdout)
    schema = json.loads((resources.files("bringup.report") / "schemas" / "image.json").read_text("utf-8"))
    jsonschema.validate(document, schema)
    assert document["gpus"] == ["sm_120"]
    assert document["built"] is False
    assert set(document["commands"]) == {"cmd", "powershell", "bash"}
    assert document["commands"]["cmd"]["build"].endswith('"%cd%\\out"')
    layers = {row["id"]: row for row in document["layers"]}
    assert layers["base"]["bytes"] == 10_000_000_000
    # No index answers an offline question: a table of measured sizes stands in, and says so.
    assert layers["torch"]["origin"] == "typical"
    assert document["total_bytes"] == 10_000_000_000 + document["added_bytes"]
    for name in ("build.cmd", "build.ps1", "build.sh", "run.cmd", "run.ps1", "run.sh"):
        assert (tmp_path / "out" / name).is_file()
    assert '--filter "a & b|c" %*' in (tmp_path / "out" / "run.cmd").read_text()
    assert '"%cd%\\fs_license.txt:/fs_license.txt"' in (tmp_path / "out" / "run.cmd").read_text()
    shown = bringup(str(WORKLOAD), *arguments, folder=tmp_path)
    assert all(name in shown.stdout for name in ("cmd.exe", "PowerShell", "bash", "10 GB"))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["no-such-recipe"], 2, "prostate-ssl"),
        ([str(WORKLOAD), "--gpu", "RTX 9999"], 2, "RTX 9999"),
        ([str(WORKLOAD), "--engine", "kaniko"], 2, "buildah"),
    ],
)
def test_refusals(arguments: list[str], code: int, words: str, tmp_path: Path) -> None:
    ran = bringup(*arguments, folder=tmp_path)
    assert ran.returncode == code
    assert words in ran.stderr
    assert not (tmp_path / "workload-image").exists()
