"""The proof: modules import, kernels give the right numbers, installed binaries carry the architectures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from bringup import state
from bringup.binaries.architectures import ComputeCapability
from bringup.binaries.report import BinaryReport
from bringup.facts.environment import EnvironmentFacts, read_environment
from bringup.findings.kernel_images import importance, is_loadable, is_torch_itself
from bringup.plan.model import Plan
from bringup.plan.steps import Verify
from bringup.steps.target import Target


@dataclass(frozen=True)
class Check:
    """One line of the proof.

    Attributes:
        id: what was checked: "import", "matrix-product", "architectures", a recipe's probe.
        subject: of what: a module, a device, a file.
        ok: whether it holds.
        detail: what was seen, in the field's words and numbers.
        seen: the same as a message's id below `[seen]`, filled with `parameters`; None for a quotation.
    """

    id: str
    subject: str
    ok: bool
    detail: str
    seen: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)


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
        name = f"{row['name']} ({row['capability']})" if row["capability"] else row["name"]
        if row.get("message"):
            checks.append(Check("matrix-product", name, row["ok"], row["message"]))
            continue
        error = f"{row['error']:.1e}"
        detail = f"relative error {error}"
        checks.append(Check("matrix-product", name, row["ok"], detail, "relative-error", {"error": error}))
    if not checks:
        message = answer.get("message") or answer.get("crash")
        told = (str(message),) if message else ("no answer", "no-answer")
        checks.append(Check("matrix-product", "torch", False, *told))
    seen = {row["capability"] for row in answer.get("devices", []) if row["capability"]}
    if gpus and not seen:
        detail = "torch sees no CUDA device"
        checks.append(Check("matrix-product", ", ".join(gpus), False, detail, "no-device"))
    return checks


def _architectures(target: Target, step: Verify) -> list[Check]:
    """Read back what torch and every extension carry, and judge it for each GPU of the plan."""
    environment = read_environment(target.root)
    reports = [report for report in environment.binaries if report.has_device_code]
    if not step.gpus:
        carried = sorted({name for report in reports for name in report.machine_code})
        told = (", ".join(carried),) if carried else ("no CUDA code: a CPU build", "cpu-build")
        return [Check("architectures", "torch", True, *told)]
    if not any(is_torch_itself(report) for report in reports):
        seen = "the installed torch carries no CUDA code"
        return [Check("architectures", "torch", False, seen, "torch-without-code")]
    return [
        check
        for gpu in step.gpus
        for check in _judge(environment, reports, ComputeCapability.parse(gpu), step.imports)
    ]


def _judge(
    environment: EnvironmentFacts,
    reports: Sequence[BinaryReport],
    gpu: ComputeCapability,
    imports: Sequence[str],
) -> Iterator[Check]:
    """torch's main library and what the plan imports in any case; others where the lack of an image would
    stop the user."""
    for report in reports:
        status = report.runs_on(gpu).status
        counts = is_loadable(report) and importance(environment, report) == "error"
        stops = status == "no" and counts
        if stops or is_torch_itself(report) or (counts and _is_imported(environment, report, imports)):
            images = " ".join(report.machine_code_in_all or report.machine_code)
            subject = f"{Path(report.path).name} on {gpu.sm}"
            seen = (f"runs-{status}", {"images": images})
            yield Check("architectures", subject, not stops, f"{status}: {images}", *seen)


def _is_imported(environment: EnvironmentFacts, report: BinaryReport, imports: Sequence[str]) -> bool:
    owner = environment.owner(report.path)
    named = {name.partition(".")[0] for name in imports}
    return owner is not None and bool(named.intersection(owner.import_names))


def _named_probe(target: Target, name: str, step: Verify) -> list[Check]:
    """A recipe's probe: one check, or one for each of its `rows`. `{source}` lies beside the environment."""
    given = step.arguments.get(name, {})
    source = str(target.root.parent / "source")
    filled = {key: value.replace("{source}", source) for key, value in given.items()}
    answer = target.probe(name, {"gpus": list(step.gpus), **filled})
    rows = answer.get("rows") or [answer]
    return [
        Check(
            str(row.get("check", name)),
            str(row.get("subject", "torch")),
            bool(row["ok"]),
            str(row.get("detail") or row.get("message") or row.get("crash") or ""),
            row.get("seen"),
            row.get("parameters", {}),
        )
        for row in rows
    ]


def _versions(target: Target, wanted: Mapping[str, str]) -> Iterator[Check]:
    """What is installed against a table of versions, line by line."""
    installed = {row.key: row.version for row in read_environment(target.root, scan=False).distributions}
    for name, version in wanted.items():
        found = installed.get(canonicalize_name(name))
        told = (found,) if found else ("not installed", "not-installed")
        yield Check("version", f"{name} {version}", found == version, *told)


def verify(target: Target, step: Verify) -> Proof:
    """Prove an environment. Never raises for what the environment does wrong: that is the result."""
    checks: list[Check] = []
    if step.imports:
        checks += _imports(target, step.imports)
    if "matrix_product" in step.probes:
        checks += _matrix_product(target, step.gpus)
    for name in step.probes:
        if name != "matrix_product":
            checks += _named_probe(target, name, step)
    return Proof((*checks, *_versions(target, step.versions), *_architectures(target, step)))


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
