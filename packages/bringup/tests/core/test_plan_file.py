"""The plan as a file: round trip, refusal of nonsense, keys that follow the inputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from bringup.errors import BringupError
from bringup.plan.model import Choice, LockedPackage, Plan, Reason, Rejected, read_plan, write_plan
from bringup.plan.steps import CreateEnvironment, InstallPackages, Verify

HASH = "0" * 64


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
        packages=(LockedPackage(name="idna", version=version, sha256=HASH),),
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


def test_a_plan_without_proof_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without a proof"):
        Plan(**a_plan().model_dump(by_alias=True) | {"steps": a_plan().model_dump()["steps"][:-1]})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BringupError, match="plan-unreadable"):
        read_plan(tmp_path / "absent.toml")
