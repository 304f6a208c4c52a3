"""A small plan of real packages, for the tests that apply one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from bringup.facts.interpreters import Interpreter, find_interpreters
from bringup.plan.model import LockedPackage, Plan
from bringup.plan.resolve import Resolved
from bringup.plan.steps import CreateEnvironment, Step, Verify

SmallPlan = Callable[[Sequence[Resolved], Sequence[Step], Sequence[str]], Plan]


@pytest.fixture(scope="session")
def interpreter() -> Interpreter:
    """The first that new environments can stand on."""
    return next(row for row in find_interpreters() if row.makes_environments and row.minor >= (3, 10))


@pytest.fixture(scope="session")
def small_plan(interpreter: Interpreter) -> SmallPlan:
    """(what the resolver found, steps between the first and the proof, modules that must import) → plan."""

    def make(rows: Sequence[Resolved], steps: Sequence[Step], imports: Sequence[str]) -> Plan:
        first = CreateEnvironment(id="environment", python=interpreter.version, interpreter=interpreter.path)
        return Plan(
            schema="bringup/plan/1",
            recipe="small",
            environment="small",
            platform=interpreter.platform,
            packages=tuple(
                LockedPackage(name=row.name, version=row.version, sha256=row.sha256) for row in rows
            ),
            steps=(first, *steps, Verify(id="verify", imports=tuple(imports))),
        )

    return make
