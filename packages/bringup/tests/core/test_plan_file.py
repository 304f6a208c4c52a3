"""The plan as a file: round trip, refusal of nonsense, keys that follow the inputs."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w
from rich.console import Console

from bringup.errors import BringupError
from bringup.plan.model import Choice, LockedPackage, Plan, Reason, Rejected, read_plan, write_plan
from bringup.plan.resolve import Resolved
from bringup.plan.steps import CreateEnvironment, InstallPackages, Verify
from bringup.report.tables import choices_table

HASH = "0" * 64


_PATCH = 'kind = "patch-source"\nid = "p"\nfiles = "*"\nfault = "("\naction = "replace"\n\n'
_BUILD = 'kind = "build-extension"\nid = "b"\ndistribution = "b"\narchitectures = ["sm_90"]\n\n'


def a_plan(version: str = "1.0") -> Plan:
    return Plan(
        schema="bringup/plan/1",
        recipe="some",
        environment="some",
        platform="linux-x86_64",
        choices=(
            Choice(
                subject="torch",
                chosen="2.11.0+cu130",
                why=Reason(id="torch-serves-gpus", parameters={"gpus": "sm_120", "cuda": "13.0"}),
                rejected=(Rejected(what="2.0.1", why=Reason(id="torch-not-on-index")),),
            ),
        ),
        packages=(
            LockedPackage(name="idna", version=version, sha256=HASH, file=f"idna-{version}-py3-none-any.whl"),
        ),
        steps=(
            CreateEnvironment(id="environment", python="3.11.7", interpreter="/usr/bin/python3"),
            InstallPackages(id="packages", packages=("idna",)),
            Verify(id="verify", imports=("idna",)),
        ),
    )


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    write_plan(a_plan(), path)
    assert read_plan(path) == a_plan()
    assert read_plan(path).key == a_plan().key


def test_same_inputs_same_text() -> None:
    assert a_plan().to_toml() == a_plan().to_toml()


def test_brackets_are_shown_as_they_are() -> None:
    """`[dev]` and `[security]` would be markup to rich, `[/x]` an error."""
    why = Reason(id="pin-loosened", parameters={"pin": "requests[security]==2.31", "file": "[/x]/a.txt:3"})
    plan = a_plan().model_copy(update={"choices": (Choice(subject="[dev]", chosen="2.32", why=why),)})
    console = Console(file=io.StringIO(), width=200)
    console.print(choices_table(plan, True))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[dev]" in shown and "requests[security]==2.31 ([/x]/a.txt:3)" in shown


def test_another_version_is_another_environment() -> None:
    assert a_plan("1.0").key != a_plan("1.1").key
    assert a_plan("1.0").step_key(a_plan("1.0").steps[1]) != a_plan("1.1").step_key(a_plan("1.1").steps[1])


def test_reasons_do_not_change_the_environment() -> None:
    assert a_plan().model_copy(update={"choices": ()}).key == a_plan().key


@pytest.mark.parametrize(
    ("old", "new", "id"),
    [
        ('kind = "verify"', 'kind = "vrify"', "plan-invalid"),
        ('name = "idna"', 'name = "other"', "plan-invalid"),
        ('recipe = "some"', 'recipe = "some"\ncolour = "red"', "plan-invalid"),
        ('schema = "bringup/plan/1"', 'schema = "bringup/plan/9"', "plan-invalid"),
        (f'sha256 = "{HASH}"', 'sha256 = "abc"', "plan-invalid"),
        ('environment = "some"', 'environment = "../../etc"', "plan-invalid"),
        ('id = "packages"', 'id = "environment"', "plan-invalid"),
        ("[[packages]]", "[[packages", "plan-syntax"),
        ('id = "packages"', 'id = "../../evil"', "plan-invalid"),
        ('version = "1.0"', 'version = "1.0\\n--extra-index-url https://example.org"', "plan-invalid"),
        ('version = "1.0"', 'version = ">=1"', "plan-invalid"),
        ('"idna"', '"--index-url=https://example.org"', "plan-invalid"),
        ('python = "3.11.7"', 'python = "three"', "plan-invalid"),
        ('interpreter = "/usr/bin/python3"', 'interpreter = "python3"', "plan-invalid"),
        ("overlay = []", 'overlay = ["import os; os.abort()"]', "plan-invalid"),
        ("gpus = []", 'gpus = ["banana"]', "plan-invalid"),
        ("probes = []", 'probes = ["../../evil"]', "plan-invalid"),
        ('imports = [\n    "idna"', 'imports = [\n    "os; import sys"', "plan-invalid"),
        ("disk = 0", "disk = -1", "plan-invalid"),
        ("seconds = 0", "seconds = nan", "plan-invalid"),
        ("[indexes]", '[indexes]\nmine = "--evil"', "plan-invalid"),
        ("[[packages]]", '[[packages]]\nname = "idna"\nversion = "2"\n\n[[packages]]', "plan-invalid"),
        ('kind = "verify"', 'kind = "verify"\nid = "early"\n\n[[steps]]\nkind = "verify"', "plan-invalid"),
        ('kind = "verify"', _PATCH + '[[steps]]\nkind = "verify"', "plan-invalid"),
        ('version = "1.0"', 'version = "99.99"', "plan-invalid"),
        ("idna-1.0-py3-none-any.whl", "torch-1.0-py3-none-any.whl", "plan-invalid"),
        ("idna-1.0-py3-none-any.whl", "idna.whl", "plan-invalid"),
        ("idna-1.0-py3-none-any.whl", "idna-1.1.tar.gz", "plan-invalid"),
        ("py3-none-any.whl", "cp312-cp312-manylinux_2_28_x86_64.whl", "plan-invalid"),
        ("py3-none-any.whl", "cp312-abi3-manylinux_2_28_x86_64.whl", "plan-invalid"),
        ("py3-none-any.whl", "cp311-cp311-manylinux_2_28_aarch64.whl", "plan-invalid"),
        ("py3-none-any.whl", "cp311-cp311-win_amd64.whl", "plan-invalid"),
        ('packages = [\n    "idna",\n]', "packages = []", "plan-invalid"),
        ("gpus = []", 'gpus = ["sm_120"]', "plan-invalid"),
        ("[steps.versions]", '[steps.versions]\nIDNA = "1.1"', "plan-invalid"),
        ('kind = "verify"', _BUILD + '[[steps]]\nkind = "verify"', "plan-invalid"),
    ],
)
def test_nonsense_is_refused(old: str, new: str, id: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    text = a_plan().to_toml()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(BringupError) as refused:
        read_plan(path)
    assert refused.value.id == id


@pytest.mark.parametrize(
    "file",
    [
        "idna-1.0.tar.gz",
        "idna-1.0.0-py2.py3-none-any.whl",
        "idna-1.0-cp311-cp311-manylinux_2_28_x86_64.whl",
        "idna-1.0-x-py3-none-any.whl",
        "idna-1.0-cp39-abi3-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        "",
    ],
)
def test_files_of_this_release_are_taken(file: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(a_plan().to_toml().replace("idna-1.0-py3-none-any.whl", file))
    assert read_plan(path).packages[0].file == file


def test_a_changed_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(a_plan().to_toml().replace('version = "1.0"', 'version = "99.99"', 1))
    with pytest.raises(BringupError) as refused:
        read_plan(path)
    assert refused.value.parameters["place"] == "packages.idna"
    text = str(refused.value.parameters["text"])
    assert "idna 99.99 is locked with the file of idna 1.0" in text and "take out its file, sha256" in text


def test_a_dry_run_shows_the_plan_and_makes_nothing(small_plan: Callable[..., Plan], tmp_path: Path) -> None:
    rows = [Resolved("idna", "3.7", HASH, "https://example.org/idna-3.7-py3-none-any.whl", ())]
    document = small_plan(rows, [InstallPackages(id="packages", packages=("idna",))], ["idna"])
    write_plan(document, tmp_path / "plan.toml")
    changed = document.to_toml().replace('version = "3.7"', 'version = "99.99"\nfile = "idna-3.7.tar.gz"', 1)
    (tmp_path / "changed.toml").write_text(changed)
    variables = os.environ | {"BRINGUP_HOME": str(tmp_path / "home"), "LC_ALL": "C.UTF-8"}
    words = [
        sys.executable,
        "-c",
        "from bringup.cli.main import main; main()",
        "apply",
        "--dry-run",
        "--json",
    ]
    for name, code in (("plan", 0), ("changed", 2)):
        ran = subprocess.run(
            [*words, str(tmp_path / f"{name}.toml")], capture_output=True, text=True, env=variables
        )
        assert ran.returncode == code, ran.stderr
        answer = json.loads(ran.stdout)
        assert answer["schema"] == ("bringup/error/1" if code else "bringup/plan/1")
    assert not (tmp_path / "home" / "environments").exists()


def test_a_plan_without_proof_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without a proof"):
        Plan(**a_plan().model_dump(by_alias=True) | {"steps": a_plan().model_dump()["steps"][:-1]})


@pytest.mark.parametrize("verb", [["apply", "--dry-run"], ["plan", "--gpu", "sm_90"]])
def test_nesting_without_end_is_a_file_that_cannot_be_read(verb: list[str], tmp_path: Path) -> None:
    (tmp_path / "deep.toml").write_text("a=" + "[" * 20_000)
    code = "from bringup.cli.main import main; main()"
    command = [sys.executable, "-c", code, *verb, str(tmp_path / "deep.toml"), "--lang", "en"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 2
    assert "cannot be read" in " ".join(ran.stderr.split())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BringupError, match="plan-unreadable"):
        read_plan(tmp_path / "absent.toml")


STEP = {"schema": "bringup/plan/1", "recipe": "r", "environment": "e", "platform": "linux-x86_64"}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"kind": "patch-source", "files": "../../*", "fault": "x", "action": "replace"}, "leads outside"),
        ({"kind": "patch-source", "files": "*", "fault": "(", "action": "replace"}, "no regular expression"),
        (
            {"kind": "patch-source", "files": "*", "fault": "x", "action": "replace", "when": "now"},
            "condition",
        ),
        ({"kind": "patch-source", "files": "*", "fault": "x", "action": "replace"}, "no step before it"),
        ({"kind": "fetch-source", "repository": "--upload-pack=x", "commit": "0" * 40}, "no address"),
        ({"kind": "fetch-source", "repository": "ext::sh -c x", "commit": "0" * 40}, "no address"),
        ({"kind": "build-extension", "distribution": "b", "architectures": ["sm_x"]}, "compute capability"),
        ({"kind": "build-extension", "distribution": "b", "architectures": ["sm_90"]}, "either a source"),
        ({"kind": "install-shims", "shims": ["a b"]}, "no module's name"),
        ({"kind": "fetch-weights", "url": "https://example.org/w", "destination": "/etc"}, "leads outside"),
        (
            {"kind": "convert-checkpoints", "folder": "m", "files": "*", "class_path": "a.B"},
            "no absolute path",
        ),
    ],
)
def test_a_step_cannot_leave_its_place(wrong: dict[str, object], said: str, tmp_path: Path) -> None:
    first, last = a_plan().model_dump(mode="json")["steps"][::2]
    document = {**STEP, "steps": [first, {"id": "mine", **wrong}, last]}
    (tmp_path / "plan.toml").write_text(tomli_w.dumps(document))
    with pytest.raises(BringupError) as refused:
        read_plan(tmp_path / "plan.toml")
    assert said in str(refused.value.parameters["text"])
    place = str(refused.value.parameters["place"])
    assert place == "plan" or place.startswith("steps.mine"), place
