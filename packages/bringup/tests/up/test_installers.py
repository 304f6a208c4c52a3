"""pip and uv behind one protocol: the same plan gives the same environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from bringup.facts.indexes import pip_sources_for_uv
from bringup.facts.interpreters import Interpreter
from bringup.plan.model import Plan, write_plan
from bringup.plan.own_packages import find_own_package
from bringup.plan.resolve import Resolver
from bringup.plan.steps import InstallOwn, InstallPackages

COMMAND = [sys.executable, "-c", "from bringup.cli.main import main; main()"]


def test_pips_sources_reach_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = tmp_path / "simple"
    there.mkdir()
    configuration = tmp_path / "pip.conf"
    configuration.write_text(
        "[global]\nindex-url = https://user:secret@mirror.example/simple\n"
        f"find-links = /elsewhere\nextra-index-url = {there.as_uri()} file:///gone/simple\n"
    )
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(configuration))
    monkeypatch.setenv("PIP_FIND_LINKS", "/wheels /more")
    sources = pip_sources_for_uv()
    assert sources["UV_DEFAULT_INDEX"] == "https://user:secret@mirror.example/simple"
    assert sources["UV_FIND_LINKS"] == "/wheels,/more"
    assert sources["UV_INDEX"] == there.as_uri()
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://mine.example")
    assert "UV_DEFAULT_INDEX" not in pip_sources_for_uv()


@pytest.mark.slow
def test_both_give_the_same_environment(
    interpreter: Interpreter, small_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    """With a wheel that lies in a folder alone, as torch's CPU build does on many machines."""
    tool = tmp_path / "tool"
    venv.create(tool, with_pip=True)
    python = tool / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "uv"], check=True, timeout=300)
    wheels = tmp_path / "wheels"
    packed = [python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", wheels]
    subprocess.run([*packed, str(find_own_package("prostate-ssl").path)], check=True, timeout=300)

    resolver = Resolver(interpreter, (wheels,))
    resolver.prepare()
    rows = [
        *resolver.resolve(["idna==3.7", "pyyaml", "omegaconf==2.3.0"]),
        *resolver.resolve(["prostate-ssl"], with_dependencies=False),
    ]
    steps = (
        InstallPackages(id="packages", packages=tuple(row.name for row in rows)),
        InstallOwn(
            id="prostate-ssl", package="prostate-ssl", content=find_own_package("prostate-ssl").content
        ),
    )
    plan = small_plan(rows, steps, ("idna", "yaml", "omegaconf"))
    file = tmp_path / "plan.toml"
    write_plan(plan, file)
    path = f"{tool / 'bin'}{os.pathsep}{os.environ['PATH']}"
    links = f"{os.environ.get('PIP_FIND_LINKS', '')} {wheels}".strip()
    listed = {}
    for installer in ("pip", "uv"):
        home = tmp_path / installer
        environment = os.environ | {"BRINGUP_HOME": str(home), "PATH": path, "PIP_FIND_LINKS": links}
        applied = subprocess.run(
            [*COMMAND, "apply", str(file), "--installer", installer, "--json"],
            capture_output=True,
            text=True,
            env=environment,
            timeout=600,
        )
        assert applied.returncode == 0, applied.stdout + applied.stderr
        (made,) = home.glob("environments/small/*/venv")
        listing = [made / "bin" / "python", "-m", "pip", "list", "--format", "json"]
        answer = subprocess.run(listing, capture_output=True, text=True, check=True)
        listed[installer] = [(row["name"], row["version"]) for row in json.loads(answer.stdout)]
        assert list(home.glob("environments/small/*/logs/*packages.log"))
    assert listed["pip"] == listed["uv"]
    assert {"idna", "omegaconf", "antlr4-python3-runtime", "prostate-ssl"} <= {
        name for name, _ in listed["uv"]
    }
