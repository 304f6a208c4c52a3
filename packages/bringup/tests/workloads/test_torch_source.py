"""PyTorch from source: what is planned, what is refused beforehand, and a killed build that goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from bringup.binaries.architectures import ComputeCapability
from bringup.catalog import load
from bringup.errors import BringupError
from bringup.facts.gpus import DriverFacts
from bringup.facts.interpreters import Interpreter, find_interpreters
from bringup.facts.machine import MachineFacts, read_machine
from bringup.plan.model import Plan, Reason, Rejected, write_plan
from bringup.plan.planner import Wishes, fitting_interpreters
from bringup.plan.resolve import Resolver
from bringup.plan.steps import BuildTorch, FetchSource, InstallPackages
from bringup.plan.torch_choice import TorchQuestion, _has_machine_code, _nothing_works, choose_torch
from bringup.plan.torch_source import RUN_REQUIREMENTS, plan_source_build, stand_in
from bringup.report.messages import say_error

BLACKWELL = ComputeCapability(12, 0)


@pytest.fixture(scope="module")
def machine() -> MachineFacts:
    """This machine with as much disk and memory as the build asks for."""
    here = read_machine()
    host = replace(here.host, memory_total=64_000_000_000, cores=16)
    return replace(here, host=host, disk=replace(here.disk, free=100_000_000_000))


def question(gpu: ComputeCapability = BLACKWELL, driver: str | None = None) -> TorchQuestion:
    facts = DriverFacts(driver, (13, 0)) if driver else None
    return TorchQuestion((gpu,), facts, "linux-x86_64", SpecifierSet(">=2.6"), False)


def test_release_toolkit_and_jobs(machine: MachineFacts) -> None:
    choice = plan_source_build(question(), machine, load(), "torch-source-asked")
    step = choice.build
    assert step is not None and step.cuda == "13.0" and step.architectures == ("sm_120",)
    assert Version(step.version) == choice.version and choice.version.local == "cu130"
    assert step.jobs == 14  # 90 % of 64 GB, 4 GB each
    assert step.source.recursive and len(step.source.commit) == 40


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"free": 10_000_000_000}, "torch-source-disk"),
        ({"memory_total": 6_000_000_000}, "torch-source-memory"),
    ],
)
def test_too_little_is_refused_beforehand(machine: MachineFacts, change: dict[str, int], wanted: str) -> None:
    if "free" in change:
        small = replace(machine, disk=replace(machine.disk, **change))
    else:
        small = replace(machine, host=replace(machine.host, **change))
    with pytest.raises(BringupError, match=wanted):
        plan_source_build(question(), small, load(), "torch-source-asked")


def test_a_chip_that_no_toolkit_knows_and_an_old_driver(machine: MachineFacts) -> None:
    with pytest.raises(BringupError, match="chip-blocks"):
        plan_source_build(question(ComputeCapability(99, 0)), machine, load(), "torch-source-asked")
    with pytest.raises(BringupError, match="driver-blocks"):
        plan_source_build(question(driver="470.57"), machine, load(), "torch-source-asked")


@pytest.mark.parametrize(
    ("gpu", "wanted"),
    [(ComputeCapability(13, 0), "chip-by-ptx-alone"), (BLACKWELL, "torch-index-unreachable")],
)
def test_a_chip_that_ptx_alone_serves_is_not_told_to_compile(gpu: ComputeCapability, wanted: str) -> None:
    """sm_130: no toolkit makes code for it, some builds carry PTX of compute_120, and their index is away."""
    index = "https://download.pytorch.org/whl/cu128"
    away = Reason(id="torch-index-unreachable", parameters={"index": index})
    lacking = Reason(id="torch-no-kernel-image", parameters={"gpu": gpu.sm})
    rejected = [Rejected(what="2.15.0+cu132", why=lacking), Rejected(what="2.7.1+cu128", why=away)]
    error = _nothing_works(question(gpu), [lacking], rejected, load())
    assert error.id == wanted and index in say_error(error)
    assert ("2.7.1+cu128" in say_error(error)) is (wanted == "chip-by-ptx-alone")
    assert ("--torch-from-source" in say_error(error)) is (wanted != "chip-by-ptx-alone")
    builds = {row.version: row for row in load().torch_builds if row.local == "cu128"}
    assert not _has_machine_code(builds["2.7.1"], ComputeCapability(13, 0), "linux-x86_64")
    assert load().torch_runs_on(builds["2.7.1"], ComputeCapability(13, 0))


@pytest.mark.parametrize(("range", "wanted"), [("==99.0", "no-such-torch"), ("==1.13.1", "chip-blocks")])
def test_a_release_that_nobody_made_is_not_the_chip_s_fault(range: str, wanted: str) -> None:
    asked = replace(question(), allowed=SpecifierSet(range))
    with pytest.raises(BringupError, match=wanted) as caught:
        choose_torch(asked, cast(Resolver, Indexless()), load())
    assert str(SpecifierSet(range)) in say_error(caught.value)


def test_a_chip_that_another_platform_serves_is_not_called_too_new() -> None:
    """Jetson Thor: in the wheels for aarch64 alone."""
    with pytest.raises(BringupError, match="chip-of-other-platform") as caught:
        choose_torch(question(ComputeCapability(11, 0)), cast(Resolver, Indexless()), load())
    assert "linux-aarch64" in say_error(caught.value)


class Indexless:
    """An index without torch."""

    def versions(self, name: str, only_index: str | None = None) -> list[Version]:
        return []


def test_a_python_that_was_named_and_does_not_fit(machine: MachineFacts) -> None:
    other = Interpreter("/opt/python3.8", "3.8.18", "CPython", True, "linux-x86_64")
    with_it = replace(machine, interpreters=(*machine.interpreters, other))
    for given in ("3.8.18", "/opt/python3.8"):
        with pytest.raises(BringupError, match="python-out-of-range") as caught:
            fitting_interpreters(">=3.10", with_it, Wishes(python=given))
        assert given in say_error(caught.value) and ">=3.10" in say_error(caught.value)
    linked = fitting_interpreters(">=3.10", replace(machine, interpreters=()), Wishes(python=sys.executable))
    assert [row.path for row in linked] == [sys.executable]


def test_the_stand_in_names_what_torch_requires(tmp_path: Path) -> None:
    resolver = Resolver(next(row for row in find_interpreters() if row.minor >= (3, 10)))
    resolver.prepare()
    wheel = stand_in(Version("2.13.0+cu130"), tmp_path)
    rows = {row.name: row for row in resolver.resolve(["torch===2.13.0+cu130"], find_links=[wheel.parent])}
    assert rows["torch"].version == "2.13.0+cu130" and {"sympy", "jinja2", "fsspec"} <= rows.keys()
    assert len(RUN_REQUIREMENTS) == len(rows["torch"].requires)


SETUP = """\
import os, time
from pathlib import Path
from setuptools import setup
built = Path("build"); built.mkdir(exist_ok=True)
log = open(os.environ["UNITS_LOG"], "a")
for unit in range(12):
    if not (built / f"{unit}.o").exists():
        print("unit", unit, flush=True)
        time.sleep(0.5)
        (built / f"{unit}.o").write_text("")
        log.write(f"{unit}\\n"); log.flush()
assert os.environ["TORCH_CUDA_ARCH_LIST"] == "12.0" and os.environ["USE_CUDNN"] == "1", dict(os.environ)
setup(name="torch", version=os.environ["PYTORCH_BUILD_VERSION"], packages=["torch"])
"""


@pytest.mark.slow
def test_a_killed_build_goes_on_with_what_it_had_compiled(
    interpreter: Interpreter, small_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    repository = tmp_path / "pytorch"
    (repository / "torch").mkdir(parents=True)
    (repository / "torch" / "__init__.py").write_text("__version__ = 'ours'\n")
    (repository / "setup.py").write_text(SETUP)
    git = ["git", "-C", str(repository), "-c", "user.name=A", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.run(
        [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    resolver = Resolver(interpreter)
    resolver.prepare()
    rows = resolver.resolve(["setuptools", "wheel"])
    source = FetchSource(id="source-torch", repository=repository.as_uri(), commit=commit, recursive=True)
    build = BuildTorch(
        id="build-torch",
        source=source,
        version="2.13.0+cu130",
        cuda="13.0",
        architectures=("sm_120",),
        jobs=1,
        memory=1,
        disk=1,
    )
    install = InstallPackages(id="packages", packages=tuple(row.name for row in rows))
    plan = small_plan(rows, (install, build), ("torch",))
    write_plan(plan, tmp_path / "plan.toml")
    units = tmp_path / "units"
    words = [
        sys.executable,
        "-c",
        "from bringup.cli.main import main; main()",
        "apply",
        str(tmp_path / "plan.toml"),
    ]
    variables = os.environ | {
        "BRINGUP_HOME": str(tmp_path / "home"),
        "UNITS_LOG": str(units),
        "LC_ALL": "C.UTF-8",
    }
    first = subprocess.Popen(words, env=variables, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 600
    while not units.exists() or len(units.read_text().split()) < 4:
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    subprocess.run(["pkill", "-KILL", "-f", str(tmp_path / "home")], check=False)
    done = len(units.read_text().split())
    again = subprocess.run(words, env=variables, capture_output=True, text=True, timeout=600)
    assert again.returncode == 0, again.stdout + again.stderr
    built = units.read_text().split()
    assert done >= 4 and sorted(set(map(int, built))) == list(range(12)) and len(built) <= 13
