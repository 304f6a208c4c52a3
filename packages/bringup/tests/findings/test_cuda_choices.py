"""What a project's files choose of CUDA: found at its line, and only where it fails for the chip."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from bringup.facts.machine import MachineFacts
from bringup.facts.project import read_project
from bringup.findings.model import Finding, NamedGpu
from bringup.report.doctor import sentence

from .examining import A100, GTX_680, GTX_1080, H200, RTX_5090, V100, examine
from .test_rules import write

WHL = "https://download.pytorch.org/whl"
ORIGIN, ARCHITECTURES = "origin-without-this-chip", "architectures-without-this-chip"


def choices(machine: MachineFacts, root: Path, gpu: NamedGpu, files: dict[str, str]) -> list[Finding]:
    """The findings of these two rules alone."""
    findings = examine(machine, None, gpu, project=write(root / "p", files))
    return [row for row in findings if row.id in (ORIGIN, ARCHITECTURES)]


UV = '[[tool.uv.index]]\nname = "t"\nurl = "{0}/cu118"\n'
UV_EXPLICIT = UV + "explicit = true\n"
UV_CHOSEN = UV_EXPLICIT + '[tool.uv.sources]\ntorch = [{{ index = "t" }}]\n'
POETRY = '[[tool.poetry.source]]\nname = "t"\nurl = "{0}/cu118"\n'
POETRY_EXPLICIT = POETRY + 'priority = "explicit"\n'
POETRY_CHOSEN = POETRY_EXPLICIT + '[tool.poetry.dependencies]\ntorch = {{ version = "*", source = "t" }}\n'


@pytest.mark.parametrize(
    ("file", "text", "gpu", "lines"),
    [
        ("requirements.txt", "numpy\n--index-url {0}/cu118\ntorch\n", RTX_5090, [2]),
        ("requirements.txt", "-i '{0}/cu118'\ntorch\n", RTX_5090, [1]),
        ("requirements.txt", "--index-url={0}/cu118\ntorch\n", H200, []),
        ("requirements.txt", "--index-url {0}/cu128\ntorch\n", RTX_5090, []),
        ("requirements.txt", "--index-url {0}/cu130\ntorch\n", V100, [1]),
        ("requirements.txt", "--index-url {0}/cu113\ntorch\n", H200, [1]),
        ("requirements.txt", "--index-url {0}/cu92\ntorch\n", RTX_5090, [1]),
        ("requirements.txt", "--index-url {0}/cu140\ntorch\n", RTX_5090, []),  # who knows
        ("requirements.txt", "--index-url {0}/cpu\ntorch\n", RTX_5090, []),
        ("requirements.txt", "# --index-url {0}/cu118\ntorch\n", RTX_5090, []),
        # No torch serves it, whatever the index: told once, by another rule.
        ("requirements.txt", "--index-url {0}/cu118\ntorch\n", GTX_680, []),
        # pip takes the highest version of all indexes, and a label is higher than none.
        ("requirements.txt", "--extra-index-url {0}/cu118\ntorch\n", RTX_5090, []),
        ("requirements.txt", "--extra-index-url {0}/cu118\ntorch==2.7.0\n", RTX_5090, [1]),
        ("requirements.txt", "--extra-index-url {0}/cu118\ntorch<2.8\n", RTX_5090, [1]),
        ("requirements.txt", "--extra-index-url {0}/cu118\ntorch==2.8.0\n", RTX_5090, []),
        ("requirements.txt", "--extra-index-url {0}/cu113\ntorch==1.12.1+cu113\n", RTX_5090, [1]),
        ("requirements.txt", "-i {0}/cu118\n--extra-index-url https://pypi.org/simple\n", RTX_5090, []),
        ("requirements.txt", "-f {0}/cu118/torch_stable.html\ntorch==2.7.1\n", RTX_5090, [1]),
        ("requirements.txt", "-f https://data.pyg.org/whl/torch-1.13.0+cu117.html\n", RTX_5090, [1]),
        ("requirements.txt", "-f https://data.pyg.org/whl/torch-1.13.0%2Bcu117.html\n", RTX_5090, [1]),
        ("requirements.txt", "-f https://data.pyg.org/whl/torch-1.13.0+cu117.html\n", A100, []),
        ("requirements.txt", "-f https://data.pyg.org/whl/torch-2.8.0+cu129.html\n", RTX_5090, []),
        ("requirements-dev.txt", "--index-url {0}/cu118\ntorch\n", RTX_5090, []),
        (
            "environment.yml",
            "dependencies:\n  - pytorch\n  - pytorch-cuda=11.8\n  - pip:\n    - -i {0}/cu118\n",
            RTX_5090,
            [3, 5],
        ),
        ("environment.yml", "dependencies:\n  - pytorch\n  - pytorch-cuda=11.8\n", H200, []),
        ("environment.yaml", "dependencies:\n  - pytorch=1.10\n  - cudatoolkit=11.3\n", H200, [3]),
        ("environment.yaml", "dependencies:\n  - numba\n  - cudatoolkit=11.3\n", H200, []),
        ("pixi.toml", '[dependencies]\npytorch = "*"\ncuda-version = "11.8.*"\n', RTX_5090, [3]),
        ("Dockerfile", "FROM a\nRUN pip install torch \\\n  --index-url {0}/cu118\n", RTX_5090, [3]),
        ("Dockerfile", "FROM a\nRUN conda install -y pytorch pytorch-cuda=11.8 -c pytorch\n", RTX_5090, [2]),
        ("Dockerfile", "FROM a\nRUN curl -f https://example.org/cu118/driver.run\n", RTX_5090, []),
        ("pyproject.toml", UV, RTX_5090, [3]),
        ("pyproject.toml", UV, A100, []),
        ("pyproject.toml", UV_EXPLICIT, RTX_5090, []),
        ("pyproject.toml", UV_CHOSEN, RTX_5090, [3]),
        # Of several, one for each extra or system, one that serves is enough.
        (
            "pyproject.toml",
            UV_CHOSEN.replace('"t" }}]', '"t" }}, {{ index = "n" }}]')
            + '[[tool.uv.index]]\nname = "n"\nurl = "{0}/cu128"\n',
            RTX_5090,
            [],
        ),
        ("pyproject.toml", POETRY + '[tool.poetry.dependencies]\ntorch = "2.7.0"\n', RTX_5090, [3]),
        ("pyproject.toml", POETRY + '[tool.poetry.dependencies]\ntorch = "*"\n', RTX_5090, []),
        ("pyproject.toml", POETRY_EXPLICIT, RTX_5090, []),
        ("pyproject.toml", POETRY_CHOSEN, RTX_5090, [3]),
    ],
)
def test_where_torch_comes_from(
    file: str, text: str, gpu: NamedGpu, lines: list[int], tmp_path: Path, machine: MachineFacts
) -> None:
    written = text.format(WHL) if "{" in text else text
    found = choices(machine, tmp_path, gpu, {file: written})
    assert [(row.id, row.severity, row.subject) for row in found] == [
        (ORIGIN, "error", f"{file}:{line}") for line in lines
    ]


def test_what_is_said_of_an_origin(tmp_path: Path, machine: MachineFacts) -> None:
    text = f"--index-url {WHL}/cu118\ntorch==2.1.0\n"
    (finding,) = choices(machine, tmp_path, RTX_5090, {"requirements.txt": text})
    assert finding.parameters["nearest"] == "2.7.0+cu128"
    assert finding.fix.endswith(f" torch==2.7.0+cu128 --index-url {WHL}/cu128")
    assert finding.evidence[1].value == "sm_37 sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_90"
    told = sentence(finding)
    assert all(part in told for part in ("requirements.txt:1", "CUDA 11.8", "sm_120", "2.7.0+cu128"))


@pytest.mark.parametrize(
    "user",
    ["", "secret@", "me:secret@", "__token__:secret@", "me:sec%2Fret@"]
    + [f"me:se{letter}cret@" for letter in "@?#/"],
)
def test_credentials_are_never_shown(user: str, tmp_path: Path, machine: MachineFacts) -> None:
    address = f"https://{user}mirror.example.org/cu118/?token=secret#secret"
    files = {
        "requirements.txt": f"--index-url {address}\ntorch\n",
        "pyproject.toml": f'[[tool.uv.index]]\nname = "t"\nurl = "{address}"\n',
        "Dockerfile": f"RUN TORCH_CUDA_ARCH_LIST=7.0 pip install -i {address} x\n",
    }
    found = choices(machine, tmp_path, RTX_5090, files)
    assert len(found) == 4
    shown = repr(found) + repr(read_project(tmp_path / "p").origins) + "".join(map(sentence, found))
    assert not any(part in shown for part in ("secret", "cret", "sec%2F", "me:"))
    assert "mirror.example.org/cu118" in shown


GENCODE = "-gencode arch=compute_70,code=sm_70"


@pytest.mark.parametrize(
    ("file", "text", "gpu", "line"),
    [
        ("setup.py", f"x = 1\nflags = ['{GENCODE}']\n", RTX_5090, 2),
        ("setup.py", f"flags = ['{GENCODE}']\n", V100, None),
        ("setup.py", "flags = ['-gencode', 'arch=compute_70,code=compute_70']\n", RTX_5090, None),
        ("setup.py", "flags = ['-gencode=arch=compute_80,code=[sm_80,compute_80]']\n", RTX_5090, None),
        ("setup.py", "flags = ['-gencode=arch=compute_80,code=[sm_80,compute_80]']\n", V100, 1),
        # nvcc's short form makes PTX as well.
        ("setup.py", "flags = ['-arch=sm_75']\n", RTX_5090, None),
        ("setup.py", "flags = ['-arch', 'sm_75']\n", V100, 1),
        # What a condition adds counts: the file is judged as a whole.
        ("setup.py", f"f = ['{GENCODE}']\nif new:\n    f += ['arch=compute_120,code=sm_120']\n", RTX_5090, None),
        ("setup.py", f"f = ['{GENCODE}', f'-gencode=arch=compute_{{a}},code=sm_{{a}}']\n", RTX_5090, None),
        ("setup.py", "import os\nos.environ['TORCH_CUDA_ARCH_LIST'] = '7.0;7.5'\n", RTX_5090, 2),
        ("setup.py", "import os\nos.environ.setdefault('TORCH_CUDA_ARCH_LIST', '7.0+PTX')\n", RTX_5090, None),
        ("setup.py", "import os\nif os.environ.get('TORCH_CUDA_ARCH_LIST') == '7.0': pass\n", RTX_5090, None),
        ("setup.py", f"# flags = ['{GENCODE}']\n", RTX_5090, None),
        ("tests/setup.py", f"flags = ['{GENCODE}']\n", RTX_5090, None),
        ("CMakeLists.txt", "project(a CUDA)\nset(CMAKE_CUDA_ARCHITECTURES 70-real 75-real)\n", RTX_5090, 2),
        ("CMakeLists.txt", 'set(CMAKE_CUDA_ARCHITECTURES "70-real;75-real" CACHE STRING "")\n', RTX_5090, 1),
        # CMake's bare number makes PTX as well: slow once, and it runs.
        ("CMakeLists.txt", "set(CMAKE_CUDA_ARCHITECTURES 70 75)\n", RTX_5090, None),
        ("CMakeLists.txt", "set(CMAKE_CUDA_ARCHITECTURES 80)\n", GTX_1080, 1),
        ("CMakeLists.txt", "set(CMAKE_CUDA_ARCHITECTURES native)\n", RTX_5090, None),
        ("CMakeLists.txt", "set(CMAKE_CUDA_ARCHITECTURES ${MINE})\n", RTX_5090, None),
        ("CMakeLists.txt", f"set(CUDA_ARCHITECTURES ${{MINE}})\nset(F {GENCODE})\n", RTX_5090, None),
        ("CMakeLists.txt", "if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)\nendif()\n", RTX_5090, None),
        ("CMakeLists.txt", "set_target_properties(a PROPERTIES CUDA_ARCHITECTURES 80-real)\n", RTX_5090, 1),
        ("CMakeLists.txt", f'set(CUDA_NVCC_FLAGS "{GENCODE}")\n', RTX_5090, 1),
        ("pyproject.toml", '[tool.x]\nargs = ["-DCMAKE_CUDA_ARCHITECTURES=80-real"]\n', RTX_5090, 2),
        ("Dockerfile", 'FROM a\nENV TORCH_CUDA_ARCH_LIST="7.0 7.5 8.6"\n', RTX_5090, 2),
        ("Dockerfile", "FROM a\nENV TORCH_CUDA_ARCH_LIST 7.0 8.6\n", RTX_5090, 2),
        ("Dockerfile", "FROM a\nENV A=1 TORCH_CUDA_ARCH_LIST=8.0 B=2\n", RTX_5090, 2),
        ("Dockerfile", "FROM a\nENV A=1 \\\n  TORCH_CUDA_ARCH_LIST='8.0;9.0+PTX'\n", RTX_5090, None),
        ("Dockerfile", 'ARG TORCH_CUDA_ARCH_LIST="8.0"\nENV TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST}\n',
         RTX_5090, 1),
        ("docker/Dockerfile.gpu", "RUN TORCH_CUDA_ARCH_LIST=8.0 pip install .\n", RTX_5090, 1),
        ("Dockerfile", 'ENV TORCH_CUDA_ARCH_LIST="Volta;Turing"\n', H200, None),
        ("Dockerfile", 'ENV TORCH_CUDA_ARCH_LIST="Pascal"\n', RTX_5090, None),  # with PTX
    ],
)  # fmt: skip
def test_architectures_that_are_written_down(
    file: str, text: str, gpu: NamedGpu, line: int | None, tmp_path: Path, machine: MachineFacts
) -> None:
    found = choices(machine, tmp_path, gpu, {file: text})
    severity = "warning" if "/" in file else "error"  # of a part of the project
    assert [(row.id, row.severity, row.subject) for row in found] == (
        [(ARCHITECTURES, severity, f"{file}:{line}")] if line else []
    )


@pytest.mark.parametrize("listed", ["7.0 7.5", "7.0;7.5", "8.0"])
def test_the_command_mends_a_dockerfile(listed: str, tmp_path: Path, machine: MachineFacts) -> None:
    """Typed as it stands, it leaves nothing to find."""
    files = {"Dockerfile": f'FROM a\nENV TORCH_CUDA_ARCH_LIST="{listed}"\n'}
    (finding,) = choices(machine, tmp_path, RTX_5090, files)
    subprocess.run(finding.fix, shell=True, check=True)
    mended = (tmp_path / "p" / "Dockerfile").read_text()
    assert choices(machine, tmp_path, RTX_5090, {"Dockerfile": mended}) == []
    assert listed in mended


def test_the_command_builds_what_stands_at_the_top(tmp_path: Path, machine: MachineFacts) -> None:
    files = {"setup.py": "", "csrc/CMakeLists.txt": "set(CMAKE_CUDA_ARCHITECTURES 70-real)\n"}
    (finding,) = choices(machine, tmp_path, RTX_5090, files)
    assert finding.fix == f'bringup build "{tmp_path / "p"}" --gpu sm_120'
    nested = {"ops/setup.py": f"f = ['{GENCODE}']"}
    finding = choices(machine, tmp_path, RTX_5090, nested)[-1]
    assert finding.fix == f'bringup build "{tmp_path / "p" / "ops"}" --gpu sm_120'


def test_each_gpu_is_judged(tmp_path: Path, machine: MachineFacts) -> None:
    files = {"requirements.txt": f"--index-url {WHL}/cu118\ntorch\n"}
    findings = examine(machine, None, RTX_5090, A100, H200, project=write(tmp_path / "p", files))
    told = [row.parameters["gpu"] for row in findings if row.id == ORIGIN]
    assert told == [RTX_5090.name]
    assert json.dumps([row.parameters for row in findings])


LOAD = "from torch.utils.cpp_extension import load\nload('k', ['k.cu'], extra_cuda_cflags=['{0}'])\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (LOAD.format("-gencode=arch=compute_70,code=sm_70"), 2),
        (LOAD.format("-gencode=arch=compute_120,code=sm_120"), None),
        (LOAD.format("-O3"), None),
        ("from torch.utils import cpp_extension as c\nflags = '-gencode=arch=compute_70,code=sm_70'\n", None),
        (
            "import torch\ntorch.utils.cpp_extension.load('k', ['-arch=sm_70', 'k.cu'])\n",
            None,
        ),  # its PTX serves
        ("from x import load\nload('-gencode=arch=compute_70,code=sm_70')  # cpp_extension\n", None),
    ],
)
def test_what_is_compiled_when_it_is_used(
    text: str, line: int | None, tmp_path: Path, machine: MachineFacts
) -> None:
    found = choices(machine, tmp_path, RTX_5090, {"ops.py": text, "k.cu": ""})
    assert [row.subject for row in found] == ([f"ops.py:{line}"] if line else [])
    project = read_project(tmp_path / "p")
    assert project.compiling == (("ops.py",) if "load('k'" in text else ())
    if found and found[0].fix.startswith("sed"):
        subprocess.run(found[0].fix, shell=True, check=True)
        assert not choices(machine, tmp_path, RTX_5090, {"ops.py": (tmp_path / "p" / "ops.py").read_text()})


def test_cpp_that_is_compiled_when_it_is_used_wants_no_nvcc(tmp_path: Path) -> None:
    for file in ("ops.py", "tests/test_ops.py"):
        write(tmp_path / "p", {file: LOAD.format("")})
    assert not read_project(tmp_path / "p").compiling
    write(tmp_path / "q", {"ops.py": LOAD.format("").replace("['k.cu']", "cuda_sources=['x']")})
    assert read_project(tmp_path / "q").compiling == ("ops.py",)
