"""The table of verbs. Each stands in its own file with a function `command` (a group: a typer `group`)."""

from __future__ import annotations

import errno
import importlib
import os
import sys
import time
from typing import Any

import typer
import typer.main
from typer.core import TyperGroup
from typer.exceptions import TyperException

from prostate_ssl.errors import ProstateError
from prostate_ssl.files import disk_is_full, let_go_of_output

_FIRST_RANK_HAS = 20.0  # seconds; on a busy machine ranks begin seconds apart

# verb -> (module below prostate_ssl.cli, one line of help). Imported only when the verb is called, so that
# `--help` is quick and a broken optional package cannot take the other verbs with it.
VERBS: dict[str, tuple[str, str]] = {
    "phantom": ("phantom", "Write synthetic cases with gland, lesions and a label."),
    "import": ("import_", "Turn DICOM, .mha, BIDS or loose NIfTI into the published folder layout."),
    "check": ("check", "Check a data folder: files, geometry, intensities, masks, duplicates."),
    "split": ("split", "Write train, validation and test lists (70/15/15)."),
    "cache": ("cache", "Decode, resample and clip every case once into memory-mapped arrays."),
    "crops": ("crops", "Draw what the network sees: crops, modalities, masks."),
    "train": ("train", "Pre-train with DINO, iBOT and KoLeo, or go on where the last call stopped."),
    "submit": ("submit", "Queue a training with Slurm."),
    "extract": ("extract", "Write features of cases: a table, and the tokens of each case."),
    "evaluate": ("evaluate", "Probe the frozen features: logistic regression, k-NN, missing modalities."),
    "visualize": ("visualize", "Draw PCA and attention over the slices of a case."),
    "finetune": ("finetune", "Learn segmentation or classification on top of the backbone."),
    "export": ("export", "Write the backbone as safetensors and ONNX."),
    "best": ("best", "Say which checkpoint of a run to take."),
    "report": ("report", "Make one page about a run."),
    "config": ("config", "Explain keys, suggest settings, list presets."),
    "smoke-test": ("smoke_test", "Train five steps, and predict memory and time of the whole run."),
}


class _LazyGroup(TyperGroup):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, name: str) -> Any:
        if name not in VERBS:
            return None
        module = importlib.import_module(f"prostate_ssl.cli.{VERBS[name][0]}")
        if hasattr(module, "group"):
            command: Any = typer.main.get_command(module.group)
        else:
            single = typer.Typer(add_completion=False, rich_markup_mode=None)
            single.command(name, context_settings=getattr(module, "CONTEXT", None))(module.command)
            command = typer.main.get_command(single)
        command.name = name
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in VERBS.items()])


app = typer.Typer(
    name="prostate-ssl",
    cls=_LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Self-supervised pre-training (DINO, iBOT, KoLeo) on multi-parametric prostate MRI.",
    epilog="Everywhere: --debug (show tracebacks).",
)


@app.callback()
def _root() -> None:
    pass


def run(arguments: list[str], prog_name: str = "prostate-ssl") -> int:
    """Run one command line; return the exit code.

    A `ProstateError` becomes one paragraph on stderr and its exit code; `--debug`, anywhere before `--`,
    shows the traceback instead.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    debug = "--debug" in arguments[:end]
    arguments = [word for at, word in enumerate(arguments) if at >= end or word != "--debug"]
    command = typer.main.get_command(app)
    try:
        result: Any = command.main(args=arguments, prog_name=prog_name, standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except typer.Exit as leaving:
        return leaving.exit_code
    except TyperException as wrong:
        print(f"error: {wrong.format_message()} (prostate-ssl --help)", file=sys.stderr)
        return 2
    except (typer.Abort, KeyboardInterrupt):
        print("Stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever reads has seen enough: `| head`
        let_go_of_output()
        return 0
    except Exception as error:
        if debug:
            raise
        message, code = _in_words(error)
        let_go_of_output()
        _let_first_rank_speak()
        print(f"error: {message}", file=sys.stderr)
        return code


def _in_words(error: Exception) -> tuple[str, int]:
    """One paragraph about an error, and the exit code: 3 for faults of our own, else the world's or 1."""
    if isinstance(error, ProstateError):
        return error.message, error.exit_code
    if disk_is_full(error):
        where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        return (
            f"{where}The disk is full. What was whole before is whole still; make room and give the same "
            "command again."
        ), 1
    if isinstance(error, OSError) and error.errno is not None:
        return _failed_file(error), 1
    return (
        f"{type(error).__name__}: {error}. This is a fault of prostate-ssl itself; the same command with "
        "--debug shows where.",
        3,
    )


def _failed_file(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        reason = "read-only file system" if error.errno == errno.EROFS else "permission denied"
        return f"{where}{reason}. Ask its owner, or name another place."
    return f"{where}{(error.strerror or str(error)).lower()}. Look at that place, or name another."


def _let_first_rank_speak() -> None:
    """What is wrong on every rank, rank 0 says; the launcher ends the others before they repeat it.

    Ranks below the first cannot ask whether it speaks: many errors come before there is a process group.
    """
    if int(os.environ.get("RANK", 0)) > 0:
        time.sleep(_FIRST_RANK_HAS)


def main() -> None:
    """Entry point of the console script `prostate-ssl`."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
