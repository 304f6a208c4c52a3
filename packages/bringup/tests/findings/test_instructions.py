"""What pages and scripts tell people to install: found only where no way of theirs serves the chip."""

from __future__ import annotations

from pathlib import Path

import pytest

from bringup.facts.machine import MachineFacts
from bringup.findings.model import Finding, NamedGpu
from bringup.report.doctor import sentence

from .examining import A100, GTX_680, H200, RTX_5090, examine
from .test_rules import write

WHL = "https://download.pytorch.org/whl"
ID = "instructions-without-this-chip"
PAGE = "# A method\n\nfirst:\n```bash\n{0}\n```\n"


def told(machine: MachineFacts, root: Path, gpu: NamedGpu, files: dict[str, str]) -> list[Finding]:
    return [row for row in examine(machine, None, gpu, project=write(root / "p", files)) if row.id == ID]


@pytest.mark.parametrize(
    ("command", "gpu", "found"),
    [
        ("pip install torch==1.12.1+cu113 torchvision --extra-index-url {0}/cu113", RTX_5090, True),
        ("$ pip3 install torch==2.4.0", RTX_5090, True),
        ("pip install torch==2.4.0", A100, False),
        ("python -m pip install torch torchvision --index-url {0}/cu118", RTX_5090, True),
        ("python -m pip install torch torchvision --index-url {0}/cu118", H200, False),
        ("uv pip install torch --index-url {0}/cu128", RTX_5090, False),
        ("conda install pytorch=1.10 cudatoolkit=11.3 -c pytorch -y", RTX_5090, True),
        (
            "conda create -n x python=3.9 && conda install pytorch pytorch-cuda=12.4 -c pytorch",
            RTX_5090,
            True,
        ),
        ("mamba install pytorch==2.0.0 \\\n   pytorch-cuda=11.8 -c pytorch", RTX_5090, True),
        ("Run `pip install torch==1.7.1` before.", RTX_5090, True),
        ("pip install torch", RTX_5090, False),
        ("pip install torch==${{TORCH}}", RTX_5090, False),  # who knows
        ("pip install torch==<version>", RTX_5090, False),
        ("pip install torch==99.0", RTX_5090, False),
        ("pip install torch-scatter -f https://data.pyg.org/whl/torch-1.13.0+cu117.html", RTX_5090, True),
        ("pip install torch-scatter==2.0.9 mypytorch==1.0", RTX_5090, False),
        ("pip install numpy==1.20", RTX_5090, False),
        # For other machines: no word about this one.
        ("pip install torch==2.1.0 --index-url {0}/cpu", RTX_5090, False),
        ("pip install torch==2.4.1 --index-url {0}/rocm6.1", RTX_5090, False),
        ("conda install pytorch==2.0.0 cpuonly -c pytorch", RTX_5090, False),
        # One way that serves is enough.
        ("pip install torch==2.4.0\npip install torch==2.7.0 --index-url {0}/cu128", RTX_5090, False),
        # No torch at all serves it: told by another rule, where something is pinned.
        ("pip install torch==2.4.0", GTX_680, False),
    ],
)
def test_a_page(command: str, gpu: NamedGpu, found: bool, tmp_path: Path, machine: MachineFacts) -> None:
    files = {"README.md": PAGE.format(command.format(WHL))}
    assert [(row.severity, row.subject) for row in told(machine, tmp_path, gpu, files)] == (
        [("warning", "README.md:5")] if found else []
    )


@pytest.mark.parametrize(
    ("file", "read"),
    [
        ("README.md", True),
        ("readme", True),
        ("README_zh.md", True),
        ("INSTALL.rst", True),
        ("docs/installation.md", True),
        ("docs/getting-started.md", True),
        ("setup.sh", True),
        ("scripts/install_env.sh", True),
        ("train.sh", False),
        ("docs/history.md", False),
        ("third_party/part/README.md", False),
        ("submodule/README.md", False),
    ],
)
def test_which_files_are_read(file: str, read: bool, tmp_path: Path, machine: MachineFacts) -> None:
    text = "# pip install torch==2.1.0\npip install torch==2.0.0\n"
    found = told(machine, tmp_path, RTX_5090, {file: text})
    # A comment of a script is not run; a heading of a page may be read as a command.
    assert [row.subject for row in found] == ([f"{file}:{2 if file.endswith('.sh') else 1}"] if read else [])


def test_what_is_said(tmp_path: Path, machine: MachineFacts) -> None:
    address = "https://me:secret@mirror.example.org/cu118/"
    files = {
        "README.md": "```\npip install xformers -f https://x.example.org/torch-2.1.0_cu118.html\n```\n",
        "setup.sh": f"pip install torch==2.1.0 --index-url {address} && echo done\n",
    }
    (finding,) = told(machine, tmp_path, RTX_5090, files)
    # The command that names torch itself.
    assert finding.subject == "setup.sh:1"
    assert finding.fix.endswith(f" torch==2.7.0+cu128 --index-url {WHL}/cu128")
    assert finding.evidence[0].value.startswith("pip install torch==2.1.0 --index-url https://")
    assert "secret" not in repr(finding) and "echo" not in repr(finding)
    assert all(part in sentence(finding) for part in ("setup.sh:1", "sm_120", "2.7.0+cu128"))
