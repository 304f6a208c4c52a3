"""`bringup up`: facts → plan → apply → verify → run → report."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bringup.cli import options

if TYPE_CHECKING:
    from bringup.cli.up_options import UpOptions
    from bringup.facts.machine import MachineFacts
    from bringup.plan.model import Plan
    from bringup.plan.planner import Wishes
    from bringup.recipes.schema import Recipe
    from bringup.steps.apply import Applied, InstallOptions
    from bringup.steps.run import Run, StageResult
    from bringup.steps.verify import Proof


def command(
    recipe: Annotated[str | None, typer.Argument(help="A built-in recipe's name, or a recipe file.")] = None,
    arguments: Annotated[list[str] | None, typer.Argument(help="After `--`: handed to the workload.")] = None,
    project: Annotated[
        Path | None, typer.Option(help="A project that no recipe knows; after `--`: its command.")
    ] = None,
    demo: Annotated[bool, typer.Option("--demo", help="On data that the workload makes itself.")] = False,
    data: Annotated[Path | None, typer.Option(help="The folder of your data.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where the run is kept (default: the state folder).")
    ] = None,
    gpu: options.Gpus = None,
    cpu: options.Cpu = False,
    profile: options.Profile = None,
    prefer: options.Prefer = None,
    source: options.SourceFolder = None,
    weights: options.WeightsFolder = None,
    models: options.ModelsFolder = None,
    pack: options.Pack = None,
    installer: options.Installer = None,
    find_links: options.FindLinks = None,
    overlay: options.Overlay = None,
    offline: options.Offline = False,
    debug_cuda: Annotated[
        bool, typer.Option("--debug-cuda", help="Wait for every kernel: an error names its call. Slow.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget an earlier run and begin anew.")] = False,
    bids: Annotated[Path | None, typer.Option(help="A BIDS dataset, for a workload in a container.")] = None,
    licence: Annotated[
        Path | None, typer.Option("--license", "--licence", help="With --bids: FreeSurfer's licence file.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="With --bids: the GPU's number, or cpu.")] = None,
    task: Annotated[str | None, typer.Option(help="With --bids: the BOLD task, such as rest.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="With --bids: go on with what is there.")] = False,
    engine: Annotated[str | None, typer.Option(help="With --bids: docker or podman.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show the plan; with --bids: the commands.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --bids: the commands as JSON.")] = False,
) -> None:
    """Look, plan, install, prove and run a workload; the last line printed is its report."""
    from bringup.cli.up_options import UpOptions, refuse_what_does_not_fit
    from bringup.errors import BringupError
    from bringup.recipes import load as load_recipe

    words = tuple(arguments or ())
    if project is not None:  # what stands after `--` is all the project's
        words, recipe = ((recipe, *words) if recipe else words), None
    elif recipe is None:
        raise BringupError("plan-of-what", exit_code=2)
    given = UpOptions(
        recipe=recipe, words=words, project=project, demo=demo, data=data, out=out,
        gpu=tuple(gpu or ()), cpu=cpu, profile=profile, prefer=options.checked_way(prefer),
        source=source, weights=weights, models=models, pack=pack, installer=installer,
        find_links=tuple(find_links or ()), overlay=overlay, offline=offline,
        fresh=fresh, debug_cuda=debug_cuda,
        bids=bids, licence=licence, device=device, task=task, resume=resume, engine=engine,
        dry_run=dry_run, as_json=as_json,
    )  # fmt: skip
    chosen = load_recipe(recipe) if recipe else None
    refuse_what_does_not_fit(given, chosen)
    if bids is not None:
        _in_a_container(given)
    else:
        _in_an_environment(given, chosen)


def _in_a_container(given: UpOptions) -> None:
    """`--bids`: the workload's own image, repaired."""
    from bringup.cli.up_participant import ParticipantOptions, run_participant
    from bringup.steps.image.participant import ParticipantRun

    assert given.recipe and given.bids and given.licence and given.out
    run_participant(
        ParticipantOptions(
            recipe=given.recipe,
            run=ParticipantRun(
                given.bids, given.out, given.licence, given.device, given.task, given.resume, given.words
            ),
            gpu=given.gpu,
            cpu=given.cpu,
            profile=given.profile,
            find_links=given.find_links,
            offline=given.offline,
            engine=given.engine,
            dry_run=given.dry_run,
            fresh=given.fresh,
            as_json=given.as_json,
        )
    )


def _in_an_environment(given: UpOptions, chosen: Recipe | None) -> None:
    """Facts → plan → apply → run → report. `chosen` is None for a project that no recipe knows."""
    from bringup.binaries.architectures import ComputeCapability
    from bringup.cli.gpu_names import named_gpus
    from bringup.cli.supplies import checked_pack, naming_what_is_missing, say_other_weights
    from bringup.facts.gpus import usable_gpus
    from bringup.facts.machine import read_machine
    from bringup.plan.planner import Wishes
    from bringup.plan.sequence import Given
    from bringup.report.console import output
    from bringup.report.messages import say
    from bringup.report.tables import facts_table
    from bringup.steps.apply import InstallOptions
    from bringup.steps.run import cuda_variables

    pack = checked_pack(given.pack)
    packed = pack / "wheels" if pack else None
    links = (*given.find_links, *([packed] if packed and packed.is_dir() else ()))
    if chosen:
        _run_of(chosen, given, False)  # Refuse bad data before anything is installed.
    console = output()
    machine = read_machine()
    console.print(say("up.facts"), style="bold", markup=False)
    console.print(facts_table(machine))
    brought = Given(given.source, given.weights, given.models, given.words)
    gpus = named_gpus(list(given.gpu))
    wishes = Wishes(
        gpus, given.cpu, given.profile, None, links, given.offline, given.overlay, brought, given.prefer
    )
    chips = () if given.cpu else gpus or tuple(gpu.capability for gpu in usable_gpus(machine.gpus))
    missing = naming_what_is_missing(chosen, chips, brought, pack, links, given.recipe) if chosen else None
    with missing or nullcontext():
        plan, recipe = _plan(given.recipe, given.project, machine, wishes)
        _show_plan(plan)
        if given.dry_run:
            return console.print(say("up-notes.dry-run"), markup=False)
        applied = _apply(plan, InstallOptions(given.installer, links, given.offline, pack))
    say_other_weights(recipe)
    if given.project is not None:
        if not (applied.reused and given.words):
            _try_its_imports(given.project, applied)
        if not given.words:
            return console.print(say("up.project-ready", name=plan.environment), markup=False)
    run = _run_of(recipe, given, bool(plan.gpus) and not given.gpu)
    planned = [ComputeCapability.parse(gpu) for gpu in plan.gpus]
    run = replace(run, variables=cuda_variables(planned, given.debug_cuda))
    since = time.time() if run.mode == "arguments" else None  # what lay there before is not shown
    stages = _run(recipe, run, applied, given)
    typer.echo(_report(recipe, run, machine, plan, applied, stages, since))
    return None


def _run_of(recipe: Recipe, given: UpOptions, on_gpu: bool) -> Run:
    from bringup.steps.run import arguments_run, data_run, demo_run

    if given.demo:
        return demo_run(recipe, given.words, on_gpu, given.out)
    if given.data:
        return data_run(recipe, given.data, given.words, on_gpu, given.out)
    return arguments_run(recipe, given.words, on_gpu, given.out)


def _plan(
    recipe: str | None, project: Path | None, machine: MachineFacts, wishes: Wishes
) -> tuple[Plan, Recipe]:
    from bringup.catalog import load
    from bringup.report.console import remarks
    from bringup.report.messages import say

    with remarks().status(say("up.planning")):
        return options.plan_of(recipe, project, None, machine, load(), wishes)


def _show_plan(plan: Plan) -> None:
    from bringup import state
    from bringup.plan.model import write_plan
    from bringup.report.console import output
    from bringup.report.messages import say
    from bringup.report.tables import choices_table, home_relative, plan_table

    path = state.environments() / plan.environment / "plan.toml"
    write_plan(plan, path)
    console = output()
    console.print()
    console.print(say("up.plan", path=home_relative(path)), style="bold", markup=False)
    console.print(choices_table(plan, explain=False))
    console.print()
    console.print(plan_table(plan))


def _apply(plan: Plan, options: InstallOptions) -> Applied:
    from bringup.report.console import output
    from bringup.report.messages import say
    from bringup.report.progress import StepDisplay, step_title
    from bringup.report.tables import home_relative, proof_table
    from bringup.steps.apply import apply_plan
    from bringup.steps.installers import progress_text

    console = output()
    console.print()
    console.print(say("up.apply"), style="bold", markup=False)
    with StepDisplay(console, step_title, progress_text) as display:
        applied = apply_plan(plan, display, options)
    console.print(say("up.environment", path=home_relative(applied.slot.target.root)), markup=False)
    if applied.proof:
        console.print(proof_table(applied.proof))
    return applied


def _try_its_imports(project: Path, applied: Applied) -> None:
    from bringup.facts.project import read_project
    from bringup.findings.error_texts import explain
    from bringup.report.console import output, remarks
    from bringup.report.explain import print_explanations
    from bringup.report.messages import say
    from bringup.steps.project_imports import project_imports

    with remarks().status(say("up.importing")):
        found = project_imports(applied.slot.target, read_project(project))
    console = output()
    if found.sound:
        console.print(say("up.imports-sound", modules=", ".join(found.sound)), markup=False)
    if found.absent:
        named = ", ".join(f"{module} ({place})" for module, place in found.absent)
        console.print(say("up.imports-absent", modules=named), markup=False)
    for module, place, error in found.failing:
        console.print(say("up.imports-failing", module=module, place=place, text=error), markup=False)
        if known := explain(error.encode()):
            print_explanations(known, console)


def _run(recipe: Recipe, run: Run, applied: Applied, given: UpOptions) -> tuple[StageResult, ...]:
    from bringup.report.console import output, remarks
    from bringup.report.explain import print_explanations
    from bringup.report.messages import current_language, say
    from bringup.report.progress import StepDisplay
    from bringup.report.tables import home_relative
    from bringup.steps.run import StageFailed, run_stages

    titles = {stage.name: getattr(stage.title, current_language()) for stage in recipe.stages}
    console = output()
    console.print()
    console.print(say("up.run", path=home_relative(run.folder)), style="bold", markup=False)
    own = given.project is not None
    try:
        with StepDisplay(console, lambda name: titles[name], every_line=own) as display:
            return run_stages(recipe, run, applied.slot, display, given.fresh)
    except StageFailed as error:
        if error.explanations:
            print_explanations(error.explanations, remarks())
        for known in recipe.failures:
            if known.text in error.tail:
                remarks().print(getattr(known.why, current_language()), markup=False)
        raise


def _report(
    recipe: Recipe,
    run: Run,
    machine: MachineFacts,
    plan: Plan,
    applied: Applied,
    stages: tuple[StageResult, ...],
    since: float | None,
) -> Path:
    from bringup.report.console import output
    from bringup.report.messages import current_language
    from bringup.report.progress import step_title
    from bringup.report.results import show_results
    from bringup.report.run_report import Timed, write_run_report
    from bringup.report.tables import check_seen, check_title, fact_rows, reason, times_table
    from bringup.steps.results import results_of
    from bringup.steps.run import with_places

    language = current_language()
    titles = {stage.name: getattr(stage.title, language) for stage in recipe.stages}
    steps = [Timed(step_title(name), seconds, applied.reused) for name, seconds in applied.seconds.items()]
    done = [Timed(titles[row.name], row.seconds, row.reused, row.parts) for row in stages]
    output().print(times_table(done))
    made = results_of(recipe, with_places(run, applied.slot), since)
    page = run.folder / "report.html"
    write_run_report(
        page,
        title=getattr(recipe.title, language),
        sections_file=run.folder / recipe.report if recipe.report else None,
        facts=fact_rows(machine),
        choices=[(choice.subject, choice.chosen, reason(choice.why)) for choice in plan.choices],
        checks=[(check.ok, check_title(check), check_seen(check)) for check in _proof(applied).checks],
        timed=[*steps, *done],
        results=show_results([row.file for row in made], run.folder),
    )
    for row in made:
        output().print(f"  {row.file}", markup=False, soft_wrap=True)
    return page


def _proof(applied: Applied) -> Proof:
    """The proof of this apply, or the one kept with the environment."""
    from bringup.steps.verify import read_proof

    return applied.proof or read_proof(applied.slot.proof)
