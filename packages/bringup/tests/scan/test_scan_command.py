"""`bringup scan` through the real program, on compiled kernels."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from bringup.binaries.elf import read_elf
from bringup.binaries.source import BytesSource

from .archives import docker_archive, files_below, layer

FIXTURES = Path(__file__).parents[1] / "binaries" / "fixtures"


def scan(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"LC_ALL": "C.UTF-8"} | variables
    code = "from bringup.cli.main import main; main()"
    command = [sys.executable, "-c", code, "scan", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def document(*arguments: object) -> dict[str, Any]:
    ran = scan(*arguments, "--json")
    assert ran.returncode == 0, ran.stderr
    read: dict[str, Any] = json.loads(ran.stdout)
    schema = resources.files("bringup.report") / "schemas" / "scan.json"
    jsonschema.validate(read, json.loads(schema.read_text(encoding="utf-8")))
    return read


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A library folder with every fixture, what is no binary, and what cannot be read."""
    root = tmp_path / "folder"
    shutil.copytree(FIXTURES, root / "compiled")
    (root / "notes.txt").write_text("no binary")
    whole = (FIXTURES / "many.so").read_bytes()
    (root / "cut.so").write_bytes(whole[: len(whole) // 2])
    (root / "loop").symlink_to(".")
    return root


def test_verdicts_by_marketing_name_and_architecture(folder: Path) -> None:
    read = document(folder, "--gpu", "RTX 5090", "--gpu", "H200", "--gpu", "sm_89", "--gpu", "10.3")
    assert [row["architecture"] for row in read["gpus"]] == ["sm_120", "sm_90", "sm_89", "sm_103"]
    files = {Path(row["path"]).name: row for row in read["files"]}
    assert files["two-units.so"]["runs_on"] == {
        "sm_120": "partial",
        "sm_90": "no",
        "sm_89": "machine-code",
        "sm_103": "no",
    }
    assert files["two-units.so"]["containers_without"]["sm_120"] == 1
    assert files["ptx-only.so"]["runs_on"]["sm_90"] == "ptx"
    assert files["family.so"]["runs_on"]["sm_103"] == "machine-code"
    assert files["family.so"]["machine_code"] == ["sm_100f", "sm_120f"]
    assert files["many.so"]["cuda_runtime"] == {
        "library": "libcudart.so.13",
        "major": 13,
        "linkage": "shared",
    }
    assert [Path(row["path"]).name for row in read["unreadable"]] == ["cut.so"]
    assert "notes.txt" not in files


@pytest.mark.parametrize("packed", [False, True])
def test_wheel_and_image_carry_what_the_folder_does(folder: Path, tmp_path: Path, packed: bool) -> None:
    wheel = tmp_path / "kernels-1.0-py3-none-any.whl"
    method = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(wheel, "w", method) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, f"kernels/{path.relative_to(folder)}")
    image = docker_archive(tmp_path / "image.tar", [layer(files_below(folder, "opt/kernels"), packed)], {})
    rows = []
    for path, inside in ((folder, ""), (wheel, "/kernels"), (image, "/opt/kernels")):
        read = document(path, "--gpu", "sm_120")
        prefix = f"{path}{inside}/"
        files = {row["path"].removeprefix(prefix): row for row in read["files"]}
        rows.append({name: {**row, "path": name} for name, row in files.items()})
        assert [row["path"] for row in read["unreadable"]] == [f"{prefix}cut.so"]
    assert len(rows[0]) == 17
    assert rows[0] == rows[1] == rows[2]


def test_environment_without_cuda_code() -> None:
    read = document(sys.prefix, "--gpu", "RTX 5090")
    torch = next(row for row in read["files"] if row["path"].endswith("torch/lib/libtorch_cpu.so"))
    assert (torch["machine_code"], torch["runs_on"], torch["torch_extension"]) == ([], {}, False)
    assert not any("no" in row["runs_on"].values() for row in read["files"])


def test_table_fits_eighty_columns(folder: Path) -> None:
    ran = scan(folder, "--gpu", "RTX 5090", "--gpu", "H100", COLUMNS="80")
    assert ran.returncode == 0, ran.stderr
    assert "\x1b" not in ran.stdout
    assert max(map(len, ran.stdout.splitlines())) <= 80
    lines = ran.stdout.splitlines()
    assert lines[lines.index("compiled/two-units.so") + 1].split() == [
        "80",
        "(+120)",
        "–",
        "13",
        "–",
        "partial",
        "NO",
    ]
    assert any(line.startswith("  cut.so: ") for line in lines)
    assert "compiled/many.so" in lines


def test_files_without_cuda_code_only_on_request() -> None:
    plain, every = scan(sys.prefix, "--gpu", "sm_90"), scan(sys.prefix, "--gpu", "sm_90", "--all")
    assert "libtorch_cpu.so" not in plain.stdout
    assert "libtorch_cpu.so" in every.stdout


def test_in_chinese(folder: Path) -> None:
    ran = scan(folder, "--gpu", "RTX 5090", "--lang", "zh")
    assert "机器码" in ran.stdout
    assert "无法读取" in ran.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["/nowhere/at/all.so"], "/nowhere/at/all.so"),
        ([str(FIXTURES), "--gpu", "RTX 9999"], "RTX 9999"),
        ([], "PATH"),
    ],
)
def test_wrong_usage(arguments: list[str], words: str) -> None:
    ran = scan(*arguments)
    assert ran.returncode == 2
    assert words in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("name", ["a.so", "a.whl", "a.tar", "a.pyd", "a.ptx", "a"])
@pytest.mark.parametrize(
    "content", [b"", b"\0" * 4096, b"\x7fELF", b"MZ" + b"\xff" * 64, b"PK\3\4", b"\x1f\x8b\x08"]
)
def test_what_cannot_be_read_is_listed(tmp_path: Path, name: str, content: bytes) -> None:
    from bringup.binaries.report import Unreadable, scan_path

    path = tmp_path / name
    path.write_bytes(content)
    rows = list(scan_path(path))
    assert [type(row) for row in rows] == [Unreadable]
    assert rows[0].path == str(path)


def test_names_cannot_steer_the_terminal(tmp_path: Path) -> None:
    wheel = tmp_path / "kernels-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(FIXTURES / "many.so", "a\x1b[31mred\x9b32m.so")
        archive.writestr("cut\x1b]0;title\x07.so", b"\x7fELF but not for long")
    shown = scan(wheel, "--lang", "en").stdout
    assert "a\\x1b[31mred\\x9b32m.so" in shown
    assert not any(letter < " " or "\x7f" <= letter < "\xa0" for letter in shown.replace("\n", ""))


def _destroyed(path: Path) -> Path:
    """A library whose fat binaries are zeroed, and that is whole otherwise."""
    data = bytearray((FIXTURES / "many.so").read_bytes())
    (section,) = read_elf(BytesSource(bytes(data))).named(".nv_fatbin")
    data[section.offset : section.offset + section.size] = bytes(section.size)
    path.write_bytes(data)
    return path


def test_a_named_path_that_cannot_be_read_fails(tmp_path: Path) -> None:
    """Scripts look at the exit code: what was asked for was not looked at."""
    broken, whole, text = tmp_path / "broken.so", FIXTURES / "many.so", tmp_path / "notes.txt"
    broken.write_bytes(b"\x7fELF but not for long")
    text.write_text("no binary")
    for paths, failed in (
        ([broken], [broken]),
        ([whole, broken], [broken]),
        ([broken, text], [broken, text]),
        ([_destroyed(tmp_path / "zeroed.so"), whole], [tmp_path / "zeroed.so"]),
    ):
        ran = scan(*paths, "--json")
        assert ran.returncode == 3
        assert [row["path"] for row in json.loads(ran.stdout)["unreadable"]] == list(map(str, failed))
        remark = " ".join(ran.stderr.split())
        assert f"{len(failed)} of {len(paths)}" in remark and "Traceback" not in remark


@pytest.mark.parametrize("kind", ["folder", "wheel", "empty folder"])
def test_what_is_found_below_a_named_path_is_only_noted(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    if kind != "empty folder":
        broken = _destroyed(folder / "broken.so")
        (folder / "cut.so").write_bytes(b"\x7fELF but not for long")
    if kind == "wheel":
        wheel = tmp_path / "kernels-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.write(broken, "broken.so")
            archive.writestr("cut.so", b"\x7fELF but not for long")
    read = document(wheel if kind == "wheel" else folder)
    expected = [] if kind == "empty folder" else ["broken.so", "cut.so"]
    assert sorted(Path(row["path"]).name for row in read["unreadable"]) == expected
