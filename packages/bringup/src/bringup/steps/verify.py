"""The proof: modules import, kernels give the right numbers, installed binaries carry the architectures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bringup import state
from bringup.binaries.architectures import ComputeCapability
from bringup.binaries.report import BinaryReport, scan_path
from bringup.plan.model import Plan, Verify
from bringup.steps.target import Target


@dataclass(frozen=True)
class Check:
    """One line of the proof.

    Attributes:
        id: what was checked: "import", "matrix-product", "architectures", a recipe's probe.
        subject: of what: a module, a device, a file.
        ok: whether it holds.
        detail: what was seen, in the field's words and numbers.
    """

    id: str
    subject: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class Proof:
    """All checks of an environment."""

    checks: tuple[Check, ...]

    @property
    def holds(self) -> bool:
        return all(check.ok for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": "bringup/proof/1",
            "ok": self.holds,
            "checks": [asdict(check) for check in self.checks],
        }


def _imports(target: Target, modules: Sequence[str]) -> list[Check]:
    answer = target.probe("imports", {"modules": list(modules)})
    if "modules" not in answer:
        detail = f"{answer.get('crash')}: {str(answer.get('output', '')).strip()[-300:]}"
        return [Check("import", ", ".join(modules), False, detail)]
    checks = []
    for name, row in answer["modules"].items():
        checks.append(Check("import", name, row["ok"], row.get("error") or row.get("version") or ""))
    return checks


def _matrix_product(target: Target, gpus: Sequence[str]) -> list[Check]:
    answer = target.probe("matrix_product", {"size": 512})
    checks = []
    for row in answer.get("devices", []):
        detail = row.get("message") or f"relative error {row['error']:.1e}"
        name = f"{row['name']} ({row['capability']})" if row["capability"] else row["name"]
        checks.append(Check("matrix-product", name, row["ok"], detail))
    if not checks:
        message = answer.get("message") or answer.get("crash") or "no answer"
        checks.append(Check("matrix-product", "torch", False, str(message)))
    seen = {row["capability"] for row in answer.get("devices", []) if row["capability"]}
    if gpus and not seen:
        checks.append(Check("matrix-product", ", ".join(gpus), False, "torch sees no CUDA device"))
    return checks


def _with_device_code(folder: Path) -> list[BinaryReport]:
    reports = (row for row in scan_path(folder) if isinstance(row, BinaryReport))
    return [report for report in reports if report.machine_code or report.ptx]


def _site_packages(target: Target) -> Path:
    folders = sorted(target.root.glob("lib/python3*/site-packages"))
    return folders[-1] if folders else target.root / "Lib" / "site-packages"


def _architectures(target: Target, gpus: Sequence[str]) -> list[Check]:
    """Read back what torch and every extension carry, and judge it for each GPU of the plan."""
    site = _site_packages(target)
    reports = _with_device_code(site)
    if not gpus:
        carried = sorted({name for report in reports for name in report.machine_code})
        seen = ", ".join(carried) or "no CUDA code: a CPU build"
        return [Check("architectures", "torch", True, seen)]
    torch_files = [report for report in reports if "/torch/lib/" in Path(report.path).as_posix()]
    if not torch_files:
        return [Check("architectures", "torch", False, "the installed torch carries no CUDA code")]
    checks = []
    for gpu in gpus:
        capability = ComputeCapability.parse(gpu)
        for report in reports:
            verdict = report.runs_on(capability)
            if report in torch_files or verdict.status == "no":
                images = " ".join(report.machine_code_in_all or report.machine_code)
                subject = f"{Path(report.path).name} on {gpu}"
                checks.append(
                    Check("architectures", subject, verdict.status != "no", f"{verdict.status}: {images}")
                )
    return checks


def verify(target: Target, step: Verify) -> Proof:
    """Prove an environment. Never raises for what the environment does wrong: that is the result."""
    checks: list[Check] = []
    if step.imports:
        checks += _imports(target, step.imports)
    if "matrix_product" in step.probes:
        checks += _matrix_product(target, step.gpus)
    for name in step.probes:
        if name != "matrix_product":
            answer = target.probe(name, {"gpus": list(step.gpus)})
            detail = str(answer.get("detail") or answer.get("message") or answer.get("crash") or "")
            checks.append(Check(name, str(answer.get("subject", "torch")), bool(answer["ok"]), detail))
    return Proof((*checks, *_architectures(target, step.gpus)))


def verify_step(plan: Plan) -> Verify:
    """The plan's own last step."""
    last = plan.steps[-1]
    assert isinstance(last, Verify)
    return last


def write_proof(proof: Proof, path: Path) -> None:
    """Keep the proof beside the environment."""
    state.write_atomically(path, json.dumps(proof.to_json(), indent=2, ensure_ascii=False) + "\n")


def read_proof(path: Path) -> Proof:
    """The proof kept with an environment."""
    document = json.loads(path.read_text(encoding="utf-8"))
    return Proof(tuple(Check(**row) for row in document["checks"]))
