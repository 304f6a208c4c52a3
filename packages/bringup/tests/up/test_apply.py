"""`bringup apply`, really: killed at every step, locked, re-run, wrong hash, undone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bringup.facts.gpus import read_gpus
from bringup.facts.interpreters import Interpreter
from bringup.plan.folders import content_of
from bringup.plan.model import Plan, write_plan
from bringup.plan.own_packages import find_own_package
from bringup.plan.resolve import Resolver
from bringup.plan.steps import (
    FetchSource,
    FetchWeights,
    InstallOwn,
    InstallPackages,
    PatchSource,
)

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-c", "from bringup.cli.main import main; main()"]


Planned = Callable[..., Plan]


@pytest.fixture(scope="module")
def plan(
    interpreter: Interpreter, small_plan: Callable[..., Plan], tmp_path_factory: pytest.TempPathFactory
) -> Planned:
    """Makes the plan of two small real packages and one of ours; `imports`: what its proof asks for."""
    os.environ["BRINGUP_HOME"] = str(tmp_path_factory.mktemp("resolver"))
    resolver = Resolver(interpreter)
    resolver.prepare()
    rows = resolver.resolve(["idna==3.7", "packaging==24.0"])
    del os.environ["BRINGUP_HOME"]

    def make(*imports: str) -> Plan:
        own = find_own_package("prostate-ssl")
        steps = (
            InstallPackages(id="one", packages=("idna",)),
            InstallPackages(id="two", packages=("packaging",)),
            InstallOwn(id="prostate-ssl", package="prostate-ssl", content=own.content),
        )
        return small_plan(rows, steps, imports or ("idna", "packaging"))

    return make


def with_source(document: Plan, folder: Path) -> Plan:
    """The plan with the steps of an external workload: source, two patches, weights; all from local folders."""
    given = folder / "given"
    given.mkdir()
    (given / "run.py").write_text("import torch\nx = torch.load('a.pt')\n")
    (given / "a.h").write_text("#include <vector>\nuint32_t x;\n")
    (given / "w.bin").write_bytes(bytes(1_000_000))
    added = (
        FetchSource(
            id="source",
            repository="https://example.org/x",
            commit="0" * 40,
            local=str(given),
            content=content_of(given),
        ),
        PatchSource(id="load", files="**/*.py", fault="torch.load", action="rewrite-torch-load"),
        PatchSource(
            id="include",
            files="*.h",
            fault="uint32_t",
            absent="<cstdint>",
            action="insert-include",
            value="<cstdint>",
        ),
        FetchWeights(id="weights-w", url="https://example.org/w.bin", local=str(given), destination="w"),
    )
    first, *rest = document.steps
    return document.model_copy(update={"steps": (first, *added, *rest)})


def start(home: Path, file: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"BRINGUP_HOME": str(home), "LC_ALL": "C.UTF-8"}
    command = [*COMMAND, "apply", str(file), "--json"]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def finish(home: Path, file: Path) -> tuple[int, dict[str, object], str]:
    process = start(home, file)
    output, errors = process.communicate(timeout=300)
    return process.returncode, json.loads(output), errors


def done_steps(home: Path) -> list[str]:
    lines = [line for file in home.glob("environments/small/*/journal.jsonl") for line in file.open()]
    return [json.loads(line)["step"] for line in lines]


def kill_everything(process: subprocess.Popen[str], home: Path) -> None:
    """SIGKILL to bringup; installers that it started die with their pipe or are killed here."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run(["pkill", "-KILL", "-f", str(home)], check=False)
    time.sleep(0.2)


def test_killed_at_every_step(plan: Planned, tmp_path: Path) -> None:
    document = with_source(plan(), tmp_path)
    file = tmp_path / "plan.toml"
    write_plan(document, file)
    home = tmp_path / "home"
    for count in range(len(document.steps)):
        process = start(home, file)
        deadline = time.monotonic() + 120
        while len(done_steps(home)) < count and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.15)  # well inside the next step
        kill_everything(process, home)
        assert not (home / "environments" / "small" / "current").exists() or count == len(document.steps) - 1
    code, result, errors = finish(home, file)
    assert code == 0, errors
    assert result["proof"]["ok"]  # type: ignore[index]
    source = Path(str(result["environment"])).parent / "source"
    assert (source / "run.py").read_text().count("weights_only=True") == 1
    assert (source / "a.h").read_text().count("#include <cstdint>") == 1
    code, result, errors = finish(home, file)
    assert code == 0, errors
    assert result["reused"]


def test_a_step_is_not_done_twice(plan: Planned, tmp_path: Path) -> None:
    file = tmp_path / "plan.toml"
    write_plan(plan(), file)
    finish(tmp_path, file)
    before = done_steps(tmp_path)
    finish(tmp_path, file)
    assert done_steps(tmp_path) == before


def test_the_packages_of_a_project_can_be_imported(plan: Planned, tmp_path: Path) -> None:
    given = tmp_path / "given"
    for file in ("mine/__init__.py", "src/yours/__init__.py"):
        (given / file).parent.mkdir(parents=True)
        (given / file).touch()
    (given / "idna.py").write_text("raise ImportError('what is installed comes first')\n")
    document = plan("idna", "mine", "yours")
    first, *rest = document.steps
    source = FetchSource(
        id="source",
        repository=given.as_uri(),
        commit="0" * 40,
        local=str(given),
        content=content_of(given),
        importable=True,
    )
    write_plan(document.model_copy(update={"steps": (first, source, *rest)}), tmp_path / "plan.toml")
    code, _, errors = finish(tmp_path / "home", tmp_path / "plan.toml")
    assert code == 0, errors


def test_a_proof_that_fails_switches_nothing_in(plan: Planned, tmp_path: Path) -> None:
    file = tmp_path / "plan.toml"
    write_plan(plan(), file)
    assert finish(tmp_path, file)[0] == 0
    pointer = tmp_path / "environments" / "small" / "current"
    before = pointer.read_text()
    write_plan(plan("idna", "not_there_at_all"), file)
    code, result, _ = finish(tmp_path, file)
    assert code == 1
    assert result["id"] == "proof-failed"
    assert "not_there_at_all" in str(result["text"])
    assert pointer.read_text() == before


def test_a_plan_for_a_gpu_that_is_not_here_says_so_first(plan: Planned, tmp_path: Path) -> None:
    file = tmp_path / "plan.toml"
    small = plan()
    proof = small.steps[-1].model_copy(update={"gpus": ("sm_120",)})
    write_plan(small.model_copy(update={"gpus": ("sm_120",), "steps": (*small.steps[:-1], proof)}), file)
    code, result, errors = finish(tmp_path, file)
    assert ("The plan is for sm_120" in errors) is not bool(read_gpus().gpus)
    assert code == 1 and result["id"] == "proof-failed"  # it asks for a torch, which is not in this plan


def test_a_wrong_hash_is_refused(plan: Planned, tmp_path: Path) -> None:
    right = plan()
    wrong = tuple(row.model_copy(update={"sha256": "0" * 64}) for row in right.packages)
    file = tmp_path / "plan.toml"
    write_plan(right.model_copy(update={"packages": wrong}), file)
    code, result, _ = finish(tmp_path, file)
    assert code == 1
    assert result["id"] == "wrong-hash"


def test_two_at_once(plan: Planned, tmp_path: Path) -> None:
    file = tmp_path / "plan.toml"
    write_plan(plan(), file)
    first = start(tmp_path, file)
    while not (tmp_path / "environments" / "small" / ".lock").exists():
        assert first.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)
    code, result, _ = finish(tmp_path, file)
    assert (code, result["id"]) == (1, "apply-locked")
    first.communicate(timeout=300)
    assert first.returncode == 0


def test_no_network(plan: Planned, tmp_path: Path) -> None:
    """An index that refuses connections: port 9 of this machine, where nobody listens."""
    file = tmp_path / "plan.toml"
    write_plan(plan(), file)
    nowhere = {
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_CACHE_DIR": "1",
    }
    nowhere |= {"PIP_RETRIES": "1", "PIP_FIND_LINKS": ""}
    environment = os.environ | nowhere | {"BRINGUP_HOME": str(tmp_path)}
    ran = subprocess.run(
        [*COMMAND, "apply", str(file), "--json"], capture_output=True, text=True, env=environment
    )
    assert ran.returncode == 1
    assert json.loads(ran.stdout)["id"] == "no-network"


def command_line(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"BRINGUP_HOME": str(home), "LC_ALL": "C.UTF-8"}
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, env=environment, timeout=600
    )


def test_an_index_without_torch(tmp_path: Path) -> None:
    """An offline folder that holds nothing: said before anything is made."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    home = tmp_path / "home"
    ran = command_line(home, "up", "prostate-ssl", "--demo", "--offline", "--find-links", str(wheels))
    assert ran.returncode == 1
    assert "torch" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not list(home.glob("environments/*/current"))


def test_over_a_given_torch(tmp_path: Path) -> None:
    """An overlay uses the torch of the environment that runs the tests and installs only what is missing."""
    home, file = tmp_path / "home", tmp_path / "plan.toml"
    made = command_line(home, "plan", "prostate-ssl", "--overlay", sys.prefix, "--cpu", "-o", str(file))
    assert made.returncode == 0, made.stderr
    assert 'name = "torch"' not in file.read_text()
    ran = command_line(home, "apply", str(file), "--json")
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert result["proof"]["ok"]
    answer = command_line(
        home, "env", "run", "prostate-ssl", "--", "python", "-c", "import torch; print(torch.__file__)"
    )
    assert answer.stdout.strip().startswith(sys.prefix)
