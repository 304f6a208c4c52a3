"""The entry point: global options, and one clean line for every error."""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback

import typer
from typer.exceptions import TyperException

from bringup import state
from bringup.errors import BringupError
from bringup.report import console, messages


class _Terminated(BaseException):
    """SIGTERM: what ends children and removes temporary folders at Ctrl-C does so now as well."""


def _heed_termination() -> None:
    """Take SIGTERM (`timeout`, a batch system, a container's stop) as Ctrl-C is taken, once."""

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, lambda *_: None)  # What is being cleaned up is not interrupted again.
        raise _Terminated

    signal.signal(signal.SIGTERM, stop)


def _take_global_options(arguments: list[str]) -> tuple[list[str], str | None, bool]:
    """`--lang X` and `--debug` are accepted anywhere before a bare `--`."""
    kept: list[str] = []
    language: str | None = None
    debug = False
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            kept += [argument, *rest]
        elif argument == "--debug":
            debug = True
        elif argument == "--lang":
            language = next(rest, "")
        elif argument.startswith("--lang="):
            language = argument.removeprefix("--lang=")
        else:
            kept.append(argument)
    return kept, language, debug


def _report(error: BringupError, as_json: bool) -> int:
    text = messages.say_error(error)
    if as_json:
        facts = {name: str(value) for name, value in error.parameters.items()}
        console.print_json({"schema": "bringup/error/1", "id": error.id, "text": text, "parameters": facts})
    console.remarks().print(text, style="red", markup=False)
    return error.exit_code


def _let_go_of_output() -> None:
    """Write what is left, or drop it: Python would try again at its end, and exit with 120 where it fails."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run(arguments: list[str]) -> int:
    """Run one command line; its exit code: 0 done, 1 failed, 2 usage, 3 tool failure, 128 + a signal."""
    kept, language, debug = _take_global_options(arguments)
    as_json = "--json" in kept
    try:
        messages.choose_language(language)
        from bringup.cli.app import application

        result = application(kept)(args=kept, prog_name="bringup", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except BringupError as error:
        if debug:
            traceback.print_exc()
        return _report(error, as_json)
    except typer.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _report(BringupError("interrupted", exit_code=130), as_json)
    except _Terminated:
        return _report(BringupError("interrupted", exit_code=143), as_json)
    except TyperException as error:
        console.remarks().print(f"{error.format_message()} (bringup --help)", style="red", markup=False)
        return 2
    except BrokenPipeError:  # Whoever reads has seen enough: `| head`.
        _let_go_of_output()
        return 0
    except Exception as error:
        if debug:
            raise
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            _let_go_of_output()
            return _report(BringupError("disk-full"), as_json)
        if isinstance(error, OSError) and error.errno in (errno.ENOLCK, errno.EOPNOTSUPP):
            return _report(BringupError("no-locks", path=state.home()), as_json)
        kind = type(error).__name__
        return _report(BringupError("internal", exit_code=3, kind=kind, text=error), as_json)


def main() -> None:
    """Console script."""
    console.write_in_any_encoding()
    _heed_termination()
    sys.exit(run(sys.argv[1:]))
