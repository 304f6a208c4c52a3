"""What Windows answers, where its drives are mounted, and the file's bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import jsonschema
import pytest

from bringup.errors import BringupError
from bringup.steps.wsl.file import difference, read_configuration, write_configuration
from bringup.steps.wsl.host import mount_root, parse_answer, to_wsl_path
from bringup.steps.wsl.settings import WindowsHost, with_settings

ANSWER = '{"disk":"412316860416","memory":"68451893248","profile":"C:\\\\Users\\\\Li Wei","processors":24}'


@pytest.mark.parametrize("text", [ANSWER, f"\ufeff{ANSWER}\r\n", f"WARNING: slow profile\r\n{ANSWER}\r\n"])
def test_powershell_answers(text: str) -> None:
    assert parse_answer(text) == (WindowsHost(68451893248, 24, 412316860416), "C:\\Users\\Li Wei")


@pytest.mark.parametrize("text", ["", "Get-CimInstance : Access denied", "{}", '{"memory": null}', "{broken"])
def test_a_useless_answer_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"PowerShell|Expecting"):
        parse_answer(text)


@pytest.mark.parametrize(
    ("text", "root"),
    [
        ("", "/mnt"),
        ("[boot]\nsystemd=true\n", "/mnt"),
        ("[automount]\nroot = /\n", ""),
        ("[automount]\nenabled=true\nroot=/windows/\n[network]\nroot=/no\n", "/windows"),
        ("[network]\nroot=/no\n", "/mnt"),
    ],
)
def test_mount_root(text: str, root: str) -> None:
    assert mount_root(text) == root


@pytest.mark.parametrize(
    ("path", "root", "place"),
    [
        ("C:\\Users\\me", "/mnt", "/mnt/c/Users/me"),
        ("D:\\People\\Li Wei", "/mnt", "/mnt/d/People/Li Wei"),
        ("C:\\Users\\me", "", "/c/Users/me"),
    ],
)
def test_paths(path: str, root: str, place: str) -> None:
    assert to_wsl_path(path, root).as_posix() == place


def test_a_network_profile_is_refused() -> None:
    with pytest.raises(ValueError, match="server"):
        to_wsl_path("\\\\server\\homes\\me")


CONTENT = "# größe\r\n[wsl2]\r\nmemory=4GB\r\n"


@pytest.mark.parametrize(
    "content",
    [
        CONTENT.encode("utf-8"),
        CONTENT.encode("utf-8-sig"),
        b"\xff\xfe" + CONTENT.encode("utf-16-le"),
        CONTENT.encode("cp1252"),
    ],
    ids=["utf-8", "utf-8 with mark", "utf-16", "code page"],
)
def test_the_encoding_is_kept(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / ".wslconfig"
    file.write_bytes(content)
    before = read_configuration(file)
    after = with_settings(before.text, {"memory": "50GB"})
    kept = write_configuration(before, after)
    encoded = {before.encoding: CONTENT.replace("4GB", "50GB")}
    assert kept is not None
    assert kept.read_bytes() == content
    text = read_configuration(file).text.lstrip("\ufeff")
    assert text == encoded[before.encoding] or before.encoding == "latin-1"
    assert (
        file.read_bytes().replace(
            "50GB".encode(_plain(before.encoding)), "4GB".encode(_plain(before.encoding))
        )
        == content
    )


def _plain(encoding: str) -> str:
    return "utf-8" if encoding == "utf-8-sig" else encoding


def test_a_file_that_changed_meanwhile_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / ".wslconfig"
    file.write_text("[wsl2]\n")
    before = read_configuration(file)
    file.write_text("[wsl2]\nkernel=x\n")
    with pytest.raises(BringupError, match="wsl-file-changed"):
        write_configuration(before, "[wsl2]\nmemory=1GB\n")
    assert file.read_text() == "[wsl2]\nkernel=x\n"


def test_the_diff_names_what_changes(tmp_path: Path) -> None:
    before = read_configuration(tmp_path / "none")
    assert "+memory=50GB" in difference(before, "[wsl2]\nmemory=50GB\n")
    assert difference(before, "") == ""


def bringup(*arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"LC_ALL": "C.UTF-8", "COLUMNS": "200"}
    if path:
        environment["PATH"] = path + os.pathsep + environment["PATH"]
    command = [sys.executable, "-c", "from bringup.cli.main import main; main()", "wsl", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def test_nothing_is_written_before_it_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / ".wslconfig"
    file.write_text("[wsl2]\nnetworkingMode=mirrored\n")
    host = ("--file", str(file), "--host-memory", "64GB", "--host-processors", "24")
    shown = bringup(*host)
    assert shown.returncode == 0
    assert "+memory=50GB" in shown.stdout
    assert file.read_text() == "[wsl2]\nnetworkingMode=mirrored\n"
    written = bringup(*host, "--write")
    assert "EVERY" in written.stdout
    assert file.read_text() == "[wsl2]\nnetworkingMode=mirrored\nmemory=50GB\nprocessors=24\nswap=20GB\n"
    again = json.loads(bringup(*host, "--write", "--json").stdout)
    schema = json.loads((resources.files("bringup.report") / "schemas" / "wsl.json").read_text("utf-8"))
    jsonschema.validate(again, schema)
    assert again["changes"] == {}
    assert again["written"] is False


def test_what_the_user_names_stands_in_place_of_the_advice(tmp_path: Path) -> None:
    host = ("--file", str(tmp_path / "f"), "--host-memory", "64GB", "--host-processors", "24", "--json")
    row = json.loads(bringup(*host, "--memory", "32GB", "--processors", "8", "--swap", "0").stdout)
    assert row["changes"] == {"memory": "32GB", "processors": "8", "swap": "0GB"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--memory", "lots"], "lots"),
        (["--memory", "128GB"], "64GB"),
        (["--processors", "99"], "24"),
    ],
)
def test_refusals(arguments: list[str], words: str, tmp_path: Path) -> None:
    host = ("--file", str(tmp_path / "f"), "--host-memory", "64GB", "--host-processors", "24")
    ran = bringup(*host, *arguments)
    assert ran.returncode == 2
    assert words in ran.stderr


@pytest.mark.skipif(sys.platform != "linux" or "WSL_INTEROP" in os.environ, reason="outside of Windows only")
def test_elsewhere_it_says_what_to_do() -> None:
    ran = bringup()
    assert ran.returncode == 2
    assert "--host-memory" in ran.stderr
    assert bringup("--host-memory", "64GB").returncode == 2
