"""Docker, podman and buildah behind one face: which is here, its build command, its progress, its failures.

Sources: docker-build(1), podman-build(1), buildah-build(1); NVIDIA Container Toolkit, «Support for CDI».
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bringup.errors import BringupError
from bringup.findings.error_texts import Explanation, explain
from bringup.steps.image.commands import Part, Word
from bringup.steps.processes import run_logged

EngineName = Literal["docker", "podman", "buildah"]
ENGINES: tuple[EngineName, ...] = ("docker", "podman", "buildah")
_LINE = 200
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
_STEP = re.compile(r"(?:\[\d+/\d+\] )?STEP (\d+)/(\d+): (.*)")
_BUILDKIT = re.compile(r"#\d+ \[(\w+) +(\d+)/(\d+)\] (.*)")
_INSTALLING = re.compile(
    r"(?:#\d+ [\d.]+ )?((?:Collecting|Downloading|Installing|Building|Created) .*|bringup: .*)"
)


@dataclass(frozen=True)
class Engine:
    """A container engine on this machine. `options` stand before its verb."""

    name: EngineName
    program: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class BaseFacts:
    """What an engine knows of an image that it has. `size` in bytes, `user` "" for root."""

    size: int | None
    user: str


class BuildFailed(BringupError):
    """`image-build-failed`, with what its log is known to mean."""

    def __init__(self, explanations: Sequence[Explanation], **parameters: Any) -> None:
        super().__init__("image-build-failed", **parameters)
        self.explanations = tuple(explanations)


def find_engine(wish: str | None = None) -> Engine:
    """The engine that was asked for, else the first that is here and answers.

    Raises:
        BringupError: `unknown-engine`, `no-engine`, `engine-missing`, `engine-silent`.
    """
    if wish is not None:
        if wish not in ENGINES:
            raise BringupError("unknown-engine", exit_code=2, given=wish, known=", ".join(ENGINES))
        program = shutil.which(wish)
        if program is None:
            raise BringupError("engine-missing", exit_code=2, engine=wish)
        return _settled(Engine(wish, program))
    silent: BringupError | None = None
    for name in ENGINES:
        program = shutil.which(name)
        if program is None:
            continue
        try:
            return _settled(Engine(name, program))
        except BringupError as error:
            silent = silent or error
    raise silent or BringupError("no-engine", exit_code=2, known=", ".join(ENGINES))


def _settled(engine: Engine) -> Engine:
    """The engine with the options that it needs here; it has answered."""
    failure = _trouble(engine)
    if failure is None:
        return engine
    if engine.name in ("podman", "buildah") and re.search(r"overlay|storage.driver|graph driver", failure):
        plain = Engine(engine.name, engine.program, ("--storage-driver", "vfs"))
        if _trouble(plain) is None:
            return plain
    raise BringupError("engine-silent", engine=engine.name, text=failure)


def _trouble(engine: Engine) -> str | None:
    """Why the engine does not answer; None if it does."""
    try:
        answer = subprocess.run(
            [engine.program, *engine.options, "info"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
            env=variables(engine),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if answer.returncode == 0:
        return None
    lines = (answer.stderr or answer.stdout).strip().splitlines()
    return " ".join(line.strip() for line in lines[-2:]) or f"exit status {answer.returncode}"


def image_store(engine: Engine) -> str:
    """Where the engine keeps its images: the same folder for engines that share them, as podman and buildah
    do, and as `docker` does where it is podman's other name. Its own name if it does not say."""
    # buildah's answer is JSON without being asked, and `--format` is a Go template to it.
    form = () if engine.name == "buildah" else ("--format", "json")
    command = [engine.program, *engine.options, "info", *form]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, env=variables(engine))
        facts = json.loads(answer.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return engine.name
    store = facts.get("store") or {}
    return str(store.get("graphRoot") or store.get("GraphRoot") or facts.get("DockerRootDir") or engine.name)


def variables(engine: Engine) -> dict[str, str]:
    """The process environment in which the engine runs; what the user set stands."""
    settings = {"docker": {"DOCKER_BUILDKIT": "1"}, "buildah": {"BUILDAH_ISOLATION": "chroot"}}
    return settings.get(engine.name, {}) | dict(os.environ)


def inspect_base(engine: Engine, reference: str) -> BaseFacts | None:
    """What the engine knows of an image without fetching it; None if it does not have it."""
    kind = ["inspect", "--type", "image"] if engine.name == "buildah" else ["image", "inspect"]
    command = [engine.program, *engine.options, *kind, reference]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, env=variables(engine))
        document = json.loads(answer.stdout) if answer.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return None
    if not document:
        return None
    row = document[0] if isinstance(document, list) else document
    config = row.get("Config") or row.get("OCIv1", {}).get("config") or {}
    if isinstance(config, str):
        config = json.loads(config).get("config") or {}
    user = str(config.get("User") or "")
    size = row.get("Size") if engine.name != "buildah" else _buildah_size(engine, reference)
    return BaseFacts(int(size) if size else None, "" if user in ("0", "root", "0:0") else user)


def _buildah_size(engine: Engine, reference: str) -> int | None:
    command = [engine.program, *engine.options, "images", "--json", reference]
    answer = subprocess.run(command, capture_output=True, text=True, env=variables(engine))
    try:
        text = json.loads(answer.stdout)[0]["size"]
    except (ValueError, LookupError, TypeError):
        return None
    number = re.fullmatch(r"([\d.]+) ?([KMGT]?)i?B", str(text))
    return int(float(number[1]) * 1000 ** " KMGT".index(number[2] or " ")) if number else None


def build_words(
    engine: EngineName,
    tag: str,
    folder: Word,
    contexts: Mapping[str, Word] | None = None,
    secrets: Mapping[str, Word] | None = None,
) -> list[Word]:
    """The build command after the program's name.

    podman and buildah make one layer of the final stage, so that what is taken away and what is copied stand
    in the same one; Docker keeps a second one of some kilobytes.
    """
    verbs = {"docker": ("build", "--progress=plain"), "podman": ("build", "--layers=false")}
    words: list[Word] = [*verbs.get(engine, ("bud", "--layers=false"))]
    for name, place in (secrets or {}).items():
        words += ["--secret", (f"id={name},src=", *_as_parts(place))]
    for name, place in (contexts or {}).items():
        words += ["--build-context", (f"{name}=", *_as_parts(place))]
    return [*words, "-t", tag, folder]


def _as_parts(word: Word) -> tuple[Part, ...]:
    if isinstance(word, tuple):
        return word
    return (word,) if isinstance(word, str) else ()


def gpu_words(engine: EngineName, gpus: bool) -> list[Word]:
    """How a container is given the GPUs."""
    if not gpus:
        return []
    return ["--gpus", "all"] if engine == "docker" else ["--device", "nvidia.com/gpu=all"]


def progress_line(line: str) -> str | None:
    """What to show of a build's output; None for the rest. «[ 2/5]» tells how far it is."""
    step = _STEP.match(line)
    if step:
        return f"[{step[1]:>2}/{step[2]}] {' '.join(step[3].split())}"
    step = _BUILDKIT.match(line)
    if step:
        return f"[{step[2]:>2}/{step[3]}] {step[1]}: {' '.join(step[4].split())}"
    other = _INSTALLING.match(line.strip())
    return other[1] if other else None


def pip_options(python: str = sys.executable) -> dict[str, str]:
    """pip's own configuration as it is, credentials and all: option → value; environment variables win.

    Kept in memory and in the secret files of one build, never shown.
    """
    command = [python, "-m", "pip", "config", "list"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        listed = ""
    files: dict[str, str] = {}
    for line in listed.splitlines():
        key, separator, value = line.partition("=")
        if separator and not key.startswith(":env:"):
            with suppress(ValueError, SyntaxError):
                files[key.rpartition(".")[2]] = str(ast.literal_eval(value))
    named = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    own = {name.removeprefix("PIP_").lower().replace("_", "-"): value for name, value in named.items()}
    return files | own


def last_words(output: str) -> str:
    """The lines at the end of a build's output that say what went wrong, without the repeated command."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [
        line for line in lines if re.search(r"error|fail|not found|No such|bringup:", line, re.IGNORECASE)
    ]
    kept = [line for line in telling if not re.match(r"(\[|STEP|Error: building at STEP|> )", line)]
    return " · ".join(line[:_LINE] for line in (kept or lines)[-2:]) or "–"


@contextmanager
def pip_secrets(options: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Files that hand pip's own configuration to the builder stage; they stay out of every layer.

    Args:
        options: pip's configuration, for example {"index-url": "https://…"}; see `pip_options`.
            Folders of this machine are left out: a build sees none of them.
    """
    lines = ["[global]"]
    certificate = None
    for option, value in options.items():
        if option == "cert":
            certificate = value if Path(value).is_file() else None
        elif option in ("index-url", "extra-index-url"):
            addresses = [word for word in value.split() if not word.startswith("file:")]
            if addresses:
                lines.append(f"{option} = " + "\n    ".join(addresses))
        elif option in ("trusted-host", "timeout", "default-timeout", "retries", "proxy"):
            lines.append(f"{option.replace('default-', '')} = " + "\n    ".join(value.split()))
    with tempfile.TemporaryDirectory(prefix="bringup-") as folder:
        configuration = Path(folder) / "pip.conf"
        configuration.touch(mode=0o600)
        configuration.write_text("\n".join(lines) + "\n", encoding="utf-8")
        yield {"pip": str(configuration)} | ({"ca": certificate} if certificate else {})


def build(
    engine: Engine,
    folder: Path,
    tag: str,
    contexts: Mapping[str, str],
    secrets: Mapping[str, str],
    on_line: Callable[[str], None] | None = None,
) -> Path:
    """Build the image; returns the log.

    Raises:
        BuildFailed: with the explanations of what stands in the log.
    """
    log = folder / "build.log"
    log.unlink(missing_ok=True)
    # Plain text for every word: nothing here is for a shell.
    words = build_words(engine.name, tag, str(folder), dict(contexts), dict(secrets))
    # The proxies that this machine needs, the build needs too; an engine takes the values from here.
    proxies = [name for name in _PROXIES if name in os.environ and engine.name == "docker"]
    words[1:1] = [word for name in proxies for word in ("--build-arg", name)]
    plain = ["".join(part for part in _as_parts(word) if isinstance(part, str)) for word in words]
    command = [engine.program, *engine.options, *plain]
    outcome = run_logged(command, log, environment=variables(engine), on_line=on_line)
    if outcome.code:
        found = explain(log.read_bytes())
        raise BuildFailed(
            found, engine=engine.name, code=outcome.code, text=last_words(outcome.tail), log=log
        )
    return log
