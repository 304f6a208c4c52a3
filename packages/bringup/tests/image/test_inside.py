"""The programs that run inside the build, here on real environments of this Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from bringup.steps.image.inside import assemble, finish

INSIDE = Path(assemble.__file__).parent
torch_version = metadata.version("torch")


def wheel(folder: Path, name: str, version: str, files: dict[str, str], commands: str = "") -> None:
    """A real wheel of a few lines."""
    info = f"{name}-{version}.dist-info"
    members = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if commands:
        members[f"{info}/entry_points.txt"] = f"[console_scripts]\n{commands}\n"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in members.items():
            archive.writestr(path, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in [*members, f"{info}/RECORD"]))


def pip(python: Path, links: Path, *names: str, **variables: str) -> None:
    command = [str(python), "-m", "pip", "install", "-q", "--no-index", f"--find-links={links}", *names]
    subprocess.run(
        command, check=True, env=os.environ | {"PIP_FIND_LINKS": "", "PIP_NO_INPUT": "1"} | variables
    )


class Made:
    """A base with old packages, and the site that was laid over it."""

    def __init__(self, folder: Path) -> None:
        links = folder / "links"
        links.mkdir()
        wheel(links, "alpha", "1.0", {"alpha.py": "VERSION = 1"})
        wheel(links, "alpha", "2.0", {"alpha.py": "VERSION = 2"}, "alpha = alpha:print")
        wheel(links, "beta", "1.0", {"beta.py": "import alpha"})
        wheel(links, "gamma_x", "1.0", {"gamma_x/__init__.py": "", "shared/one.py": ""})
        wheel(links, "delta", "1.0", {"shared/two.py": ""})
        base = folder / "base"
        subprocess.run([sys.executable, "-m", "venv", str(base)], check=True)
        self.python = base / "bin" / "python"
        pip(self.python, links, "alpha==1.0", "beta", "gamma_x", "delta")
        self.context, self.changes = folder / "context", folder / "changes"
        self.context.mkdir()
        described = {"drop": ["gamma.x", "absent"], "imports": ["alpha", "beta"], "torch": None, "gpus": []}
        (self.context / "image.json").write_text(json.dumps(described))
        (self.context / "finish.py").write_bytes((INSIDE / "finish.py").read_bytes())
        self.site = folder / "opt" / "bringup" / "site"
        self.folder, self.links = folder, links
        self.assemble("create")
        pip(self.site / "bin" / "python", links, "alpha==2.0", "beta", PYTHONPATH=str(folder / "pip"))
        self.assemble("collect")
        self.packages = next((base / "lib").glob("python3*")) / "site-packages"

    def assemble(self, verb: str) -> None:
        options = {"environment": self.site, "context": self.context, "changes": self.changes}
        words = [f"--{name}={value}" for name, value in (options | {"pip": self.folder / "pip"}).items()]
        environment = os.environ | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}
        command = [str(self.python), str(INSIDE / "assemble.py"), verb, *words]
        subprocess.run(command, check=True, env=environment)

    def below(self, path: Path) -> Path:
        return self.changes / str(path).lstrip("/")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("made"))


def test_what_the_base_has_and_still_fits_is_not_installed_again(made: Made) -> None:
    names = set(assemble.distributions(assemble.packages(made.site)))
    assert names == {"alpha"}


def test_what_goes_from_the_base(made: Made) -> None:
    removed = (made.below(made.site.parent) / "removed.txt").read_text().splitlines()
    names = sorted(Path(path).name for path in removed)
    # Replaced: its metadata. Dropped: all that is its own, but no folder that others share.
    assert names == ["alpha-1.0.dist-info", "gamma_x", "gamma_x-1.0.dist-info"]
    assert all(Path(path).parent == made.packages for path in removed)


def test_the_changes_mirror_the_root(made: Made) -> None:
    top = made.below(made.site.parent)
    assert {path.name for path in top.iterdir()} == {
        "bin",
        "finish.py",
        "image.json",
        "lock.txt",
        "removed.txt",
        "site",
    }
    assert [path.name for path in (top / "bin").iterdir()] == ["alpha"]
    assert (top / "bin" / "alpha").resolve().is_file()
    assert made.below(made.packages / assemble.POINTER).is_file()


def test_laid_over_the_base_the_new_packages_come_first(made: Made) -> None:
    """What the final stage does: copy, take away, prove."""
    pointer = made.packages / assemble.POINTER
    pointer.write_text(made.below(pointer).read_text())
    question = (
        "import alpha, beta, sys; from importlib import metadata as m; "
        "print(alpha.VERSION, m.version('alpha'), sum(d.name == 'alpha' for d in m.distributions()))"
    )
    script = made.below(made.site.parent) / "finish.py"
    ran = subprocess.run([str(made.python), "-B", str(script)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "3 of 3" in ran.stdout
    answer = subprocess.run([str(made.python), "-c", question], capture_output=True, text=True)
    assert answer.stdout.split() == ["2", "2.0", "1"]
    assert not (made.packages / "gamma_x").exists()
    assert (made.packages / "shared" / "two.py").exists()
    # The standard library still comes before both.
    order = subprocess.run(
        [str(made.python), "-c", "import sys, json; print(json.dumps(sys.path))"],
        capture_output=True,
        text=True,
    )
    places = json.loads(order.stdout)
    assert places.index(str(assemble.packages(made.site))) == places.index(str(made.packages)) - 1


def test_an_import_that_fails_fails_the_build(made: Made, tmp_path: Path) -> None:
    (tmp_path / "finish.py").write_bytes((INSIDE / "finish.py").read_bytes())
    (tmp_path / "removed.txt").write_text("")
    described = {"imports": ["no_such_module"], "torch": None, "gpus": []}
    (tmp_path / "image.json").write_text(json.dumps(described))
    ran = subprocess.run([str(made.python), str(tmp_path / "finish.py")], capture_output=True, text=True)
    assert ran.returncode != 0
    assert "no_such_module" in ran.stderr


@pytest.mark.parametrize(
    ("torch", "gpus", "words"),
    [
        (torch_version.partition("+")[0], [], ""),
        ("1.0.0", [], "not 1.0.0"),
        (torch_version.partition("+")[0], ["sm_30"], "no code for sm_30"),
    ],
    ids=["the planned torch", "another torch", "a chip without code"],
)
def test_torch_is_the_planned_one_and_serves_the_chips(
    torch: str, gpus: list[str], words: str, tmp_path: Path
) -> None:
    """With the torch of the environment that runs the tests."""
    (tmp_path / "finish.py").write_bytes((INSIDE / "finish.py").read_bytes())
    (tmp_path / "removed.txt").write_text("")
    described = {"imports": ["torch"], "torch": torch, "gpus": gpus}
    (tmp_path / "image.json").write_text(json.dumps(described))
    ran = subprocess.run([sys.executable, str(tmp_path / "finish.py")], capture_output=True, text=True)
    assert (ran.returncode == 0) is (words == ""), ran.stderr
    assert words in ran.stderr
    if not words:
        assert f"bringup: torch {torch_version}" in ran.stdout


def test_links_are_taken_away_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    assert finish.remove([str(tmp_path / "link"), str(tmp_path / "absent")]) == 1
    assert (tmp_path / "precious" / "file").exists()


@pytest.mark.parametrize(
    ("flags", "chip", "served"),
    [
        ("sm_80 sm_90 sm_120 compute_120", "sm_120", True),
        ("sm_80 sm_86 sm_90", "sm_120", False),
        ("sm_80 compute_90", "sm_120", True),
        ("sm_80", "sm_86", True),
        ("sm_86", "sm_80", False),
        ("sm_90a", "sm_90", True),
        ("sm_100a", "sm_103", False),
        ("sm_100f", "sm_103", True),
        ("compute_120", "sm_90", False),
        ("", "sm_120", False),
    ],
)
def test_torchs_list_of_architectures(flags: str, chip: str, served: bool) -> None:
    assert finish.serves(flags.split(), chip) is served
