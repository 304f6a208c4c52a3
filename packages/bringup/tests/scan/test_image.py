"""Environments inside image archives, built from a real virtual environment."""

from __future__ import annotations

import sys
import venv
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from bringup.errors import BringupError
from bringup.facts.image import opened_image

from .archives import Layer, docker_archive, files_below, layer, oci_archive

_CONFIG: dict[str, object] = {
    "architecture": "amd64",
    "config": {"Env": ["PATH=/opt/venv/bin:/usr/bin", "A=b"], "Entrypoint": ["python"], "Cmd": ["-m", "x"]},
}
_FIXTURES = Path(__file__).parents[1] / "binaries" / "fixtures"
_SITE = f"opt/venv/lib/python3.{sys.version_info[1]}/site-packages"
_VERSION_FILE = (
    b"__version__ = '2.0.1+cu117'\ncuda = '11.7'\ngit_version = 'e9ebda29d87ce0916ab08c06ab26fd3766a870e5'\n"
)
_RELEASE = b'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n'

Writer = Callable[[Path, Sequence[bytes], dict[str, object]], Path]


def _torch(version: str) -> Layer:
    metadata = f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n".encode()
    return {f"{_SITE}/torch-{version}.dist-info/METADATA": metadata}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Layer:
    """A virtual environment at /opt/venv, whose interpreter is a link to /usr/bin."""
    folder = tmp_path_factory.mktemp("base")
    venv.create(folder / "env", with_pip=False, symlinks=True)
    files = files_below(folder / "env", "opt/venv")
    minor = f"python3.{sys.version_info[1]}"
    files["opt/venv/bin/python"] = f"/usr/bin/{minor}"
    files[f"usr/bin/{minor}"] = Path(sys.executable).resolve().read_bytes()
    files["usr/bin/python3"] = minor
    files["etc/os-release"] = "../usr/lib/os-release"
    files["usr/lib/os-release"] = _RELEASE
    return files


@pytest.mark.parametrize("write", [docker_archive, oci_archive])
@pytest.mark.parametrize("packed", [False, True])
def test_environment_in_an_image(tmp_path: Path, base: Layer, write: Writer, packed: bool) -> None:
    old = {
        **_torch("1.13.1"),
        f"{_SITE}/gone-1.0.dist-info/METADATA": b"Name: gone\nVersion: 1.0\n",
        f"{_SITE}/torch/version.py": _VERSION_FILE,
        f"{_SITE}/extension/_C.so": (_FIXTURES / "ptx-only.so").read_bytes(),
    }
    new = {
        **_torch("2.0.1+cu117"),
        f"{_SITE}/.wh.torch-1.13.1.dist-info": b"",
        f"{_SITE}/.wh.gone-1.0.dist-info": b"",
        f"{_SITE}/extension/_C.so": (_FIXTURES / "two-units.so").read_bytes(),
    }
    layers = [layer(files, packed) for files in (base, old, new)]
    with opened_image(write(tmp_path / "image.tar", layers, _CONFIG)) as image:
        assert image.unreadable == ()
        assert image.architecture == "amd64"
        assert image.system == "Debian GNU/Linux 12 (bookworm)"
        assert image.command == ("-m", "x")
        assert dict(image.variables)["A"] == "b"
        first = image.environments[0]
        assert image.inside(first.root) == "/opt/venv"
        assert first.kind == "venv"
        assert [(row.name, row.version) for row in first.distributions] == [("torch", "2.0.1+cu117")]
        assert first.torch is not None
        assert first.torch.cuda == "11.7"
        assert [image.inside(row.path) for row in first.binaries] == [f"/{_SITE}/extension/_C.so"]
        assert first.binaries[0].machine_code
        folder = Path(image.root)
        assert folder.is_dir()
    assert not folder.exists()


def test_links_never_leave_the_image(tmp_path: Path, base: Layer) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    hostile = {
        "opt/venv/lib/evil": str(secret),
        "opt/venv/lib/evil/planted.so": b"\x7fELF",
        "../../outside.so": b"\x7fELF",
        f"{_SITE}/up.so": "../../../../../../../../../etc/passwd",
        f"{_SITE}/x-1.0.dist-info/METADATA": b"Name: x\nVersion: 1.0\n",
    }
    archive = docker_archive(tmp_path / "image.tar", [layer(base), layer(hostile)], _CONFIG)
    with opened_image(archive) as image:
        assert image.environments[0].distribution("x") is not None
        for path in Path(image.root).rglob("*"):
            assert path.resolve().is_relative_to(image.root), path
    assert list(secret.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.tar", "secret"]


def test_damaged_layer_is_told(tmp_path: Path, base: Layer) -> None:
    whole = layer(base, packed=True)
    with opened_image(docker_archive(tmp_path / "image.tar", [whole[: len(whole) // 2]], _CONFIG)) as image:
        assert len(image.unreadable) == 1


@pytest.mark.parametrize("content", [b"", b"no archive" * 100, layer({"a": b"b"})])
def test_what_is_no_image(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(content)
    with pytest.raises(BringupError, match="image-unreadable"), opened_image(path):
        pass
