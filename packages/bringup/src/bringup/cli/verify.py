"""`bringup verify`: kernels run, numbers compared, installed binaries read back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    name: Annotated[str | None, typer.Argument(help="Name of one of bringup's environments.")] = None,
    env: Annotated[Path | None, typer.Option(help="Any other environment's folder.")] = None,
    gpu: Annotated[list[str] | None, typer.Option(help="Judge the binaries for this GPU.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The proof as JSON on standard output.")] = False,
) -> None:
    """Prove an environment on this machine; exit 1 if the proof does not hold."""
    from bringup.cli.gpu_names import named_gpus
    from bringup.errors import BringupError
    from bringup.facts.gpus import read_gpus, usable_gpus
    from bringup.plan.model import read_plan
    from bringup.plan.steps import Verify
    from bringup.report import console
    from bringup.report.tables import proof_table
    from bringup.steps.environments import find
    from bringup.steps.target import VirtualEnvironment
    from bringup.steps.verify import verify, verify_step

    if (name is None) == (env is None):
        raise BringupError("name-or-env", exit_code=2)
    here = tuple(gpu_facts.capability.sm for gpu_facts in usable_gpus(read_gpus()))
    gpus = tuple(capability.sm for capability in named_gpus(gpu or [])) or here
    if name is not None:
        slot = find(name)
        target = slot.target
        step = verify_step(read_plan(slot.plan))
    else:
        assert env is not None
        target = VirtualEnvironment(env.expanduser().absolute())
        step = Verify(id="verify", imports=("torch",), probes=("matrix_product",), gpus=gpus)
    if not target.python.exists():
        raise BringupError("no-environment", exit_code=2, path=target.root)
    proof = verify(target, step.model_copy(update={"gpus": gpus}) if gpu else step)
    if as_json:
        console.print_json(proof.to_json())
    else:
        console.output().print(proof_table(proof))
    raise typer.Exit(0 if proof.holds else 1)
