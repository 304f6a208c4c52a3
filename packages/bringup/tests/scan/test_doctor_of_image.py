"""`bringup doctor --image`: every environment in an archive, judged by what is in the image alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from dataclasses import replace
from importlib import resources
from pathlib import Path

import jsonschema
import pytest

from bringup.catalog import load
from bringup.facts.gpus import GpuSurvey
from bringup.facts.image import opened_image
from bringup.facts.machine import MachineFacts, read_machine
from bringup.findings.model import Examined
from bringup.findings.rules import find

from .archives import Layer, docker_archive, files_below, layer

FIXTURES = Path(__file__).parents[1] / "binaries" / "fixtures"
CONFIG: dict[str, object] = {
    "architecture": "amd64",
    "config": {"Env": ["PATH=/opt/one/bin:/usr/bin", "LD_LIBRARY_PATH=/opt/libraries"]},
}
MINOR = f"python3.{sys.version_info[1]}"


def doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from bringup.cli.main import main; main()", "doctor", *arguments]
    variables = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    return subprocess.run(command, capture_output=True, text=True, env=variables | {"LC_ALL": "C.UTF-8"})


@pytest.fixture(scope="module")
def machine() -> MachineFacts:
    return replace(read_machine(), gpus=GpuSurvey((), None, None, None, ()))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Layer:
    """Two virtual environments, /opt/one and /opt/two, of one Python."""
    files: Layer = {f"usr/bin/{MINOR}": Path(sys.executable).resolve().read_bytes()}
    for name in ("one", "two"):
        folder = tmp_path_factory.mktemp(name)
        venv.create(folder / "env", with_pip=False, symlinks=True)
        files |= files_below(folder / "env", f"opt/{name}")
        files[f"opt/{name}/bin/python"] = f"/usr/bin/{MINOR}"
    return files


def distribution(env: str, name: str, file: str, content: bytes) -> Layer:
    site = f"opt/{env}/lib/{MINOR}/site-packages"
    return {
        f"{site}/{name}-1.0.dist-info/METADATA": f"Name: {name}\nVersion: 1.0\n".encode(),
        f"{site}/{name}-1.0.dist-info/RECORD": f"{file},,\n".encode(),
        f"{site}/{file}": content,
    }


def compiled(folder: Path, name: str, source: str, *options: str) -> bytes:
    (folder / f"{name}.c").write_text(source)
    command = ["gcc", "-shared", "-fPIC", "-o", str(folder / f"{name}.so"), str(folder / f"{name}.c")]
    subprocess.run([*command, *options], check=True)
    return (folder / f"{name}.so").read_bytes()


def test_all_environments_of_an_image(base: Layer, tmp_path: Path) -> None:
    extension = (FIXTURES / "two-units.so").read_bytes()
    files = base | distribution("two", "fast", "fast/_C.so", extension)
    archive = docker_archive(tmp_path / "image.tar", [layer(files)], CONFIG)
    ran = doctor("--image", str(archive), "--gpu", "H200", "--json")
    assert ran.returncode == 1, ran.stderr
    document = json.loads(ran.stdout)
    schema = resources.files("bringup.report") / "schemas" / "doctor.json"
    jsonschema.validate(document, json.loads(schema.read_text(encoding="utf-8")))
    assert [row["root"] for row in document["facts"]["environments"]] == ["/opt/one", "/opt/two"]
    assert document["facts"]["environment"]["root"] == "/opt/one"
    (finding,) = document["findings"]
    assert finding["id"] == "no-kernel-image"
    assert finding["evidence"][0]["file"] == f"/opt/two/lib/{MINOR}/site-packages/fast/_C.so"
    assert finding["fix"].startswith('"/opt/two/bin/python" -m pip install ')


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, ["missing-library"]),
        ({"usr/lib/x86_64-linux-gnu/libz.so.1": b"here"}, []),
        ({"opt/libraries/libz.so.1": b"here"}, []),
        ({"opt/cuda/lib/libz.so.1": b"here", "etc/ld.so.conf.d/cuda.conf": b"/opt/cuda/lib\n"}, []),
    ],
    ids=["nowhere", "trusted folder", "LD_LIBRARY_PATH of the image", "ld.so.conf of the image"],
)
def test_this_machines_libraries_do_not_count(
    more: Layer, expected: list[str], base: Layer, machine: MachineFacts, tmp_path: Path
) -> None:
    """libz.so.1 is on every machine that runs these tests, and not in this image."""
    stub = compiled(tmp_path, "stub", "void f(void) {}", "-Wl,-soname,libz.so.1")
    assert stub
    source = "void f(void); void PyInit_m(void) { f(); }"
    module = compiled(tmp_path, "m", source, str(tmp_path / "stub.so"))
    files = base | distribution("one", "m", "m.so", module) | more
    files["etc/ld.so.conf"] = b"include /etc/ld.so.conf.d/*.conf\n"
    archive = docker_archive(tmp_path / "image.tar", [layer(files)], CONFIG)
    with opened_image(archive) as contents:
        for environment in contents.environments[:1]:
            examined = Examined(load(), machine, environment=environment)
            assert [row.id for row in find(examined)] == expected


def test_an_image_that_cannot_be_read_to_its_end(base: Layer, tmp_path: Path) -> None:
    """A layer that is cut off: what was read is healthy, and the exit code says that it was not all."""
    whole = layer(base)
    archive = docker_archive(tmp_path / "image.tar", [whole, whole[:20_000]], CONFIG)
    assert doctor("--image", str(archive), "--json").returncode == 3
