"""`report.html`: the workload's own findings, every fact, every step with its time; one file, no network."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bringup import state
from bringup.errors import BringupError
from bringup.report.messages import current_language, say
from bringup.report.progress import brief, duration
from bringup.report.results import Shown

_MEDIA = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".svg": "image/svg+xml"}


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class SectionTable(_Row):
    """Columns and rows of text or numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float | None, ...], ...]


class Section(_Row):
    """One part of what a workload reports. `image`: path relative to the file that names it."""

    title: str
    text: str | None = None
    image: str | None = None
    table: SectionTable | None = None


class WorkloadReport(_Row):
    """What a workload writes for its report: schema `bringup/run-report/1`."""

    schema_: str = Field(alias="schema")
    title: str
    sections: tuple[Section, ...] = ()
    stages: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Timed:
    """A step or stage with its time; `parts`: what it reported by itself, seconds or words."""

    title: str
    seconds: float
    reused: bool
    parts: tuple[tuple[str, float | str], ...] = ()


def read_workload_report(path: Path) -> WorkloadReport | None:
    """Read the workload's own file; None if it wrote none.

    Raises:
        BringupError: `run-report-invalid`.
    """
    if not path.is_file():
        return None
    try:
        return WorkloadReport.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, ValidationError) as error:
        raise BringupError("run-report-invalid", path=path, text=error) from error


def _embed(folder: Path, image: str, run: Path) -> str | None:
    """An image as a data URL. Nothing outside the run's own folder is read."""
    file = (folder / image).resolve()
    media = _MEDIA.get(file.suffix.lower())
    if media is None or not file.is_relative_to(run.resolve()) or not file.is_file():
        return None
    return f"data:{media};base64,{base64.b64encode(file.read_bytes()).decode()}"


def write_run_report(
    path: Path,
    *,
    title: str,
    sections_file: Path | None,
    facts: Sequence[tuple[str, str]],
    choices: Sequence[tuple[str, str, str]],
    checks: Sequence[tuple[bool, str, str]],
    timed: Sequence[Timed],
    results: Sequence[Shown] = (),
) -> None:
    """Write the page atomically.

    Args:
        facts: (name, value). choices: (subject, chosen, why). checks: (holds, what, what was seen).
    """
    workload = read_workload_report(sections_file) if sections_file else None
    sections = []
    for section in workload.sections if workload else ():
        assert sections_file is not None
        picture = _embed(sections_file.parent, section.image, path.parent) if section.image else None
        sections.append({"section": section, "picture": picture})
    template = (resources.files("bringup.report") / "templates" / "run.html").read_text(encoding="utf-8")
    engine = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = engine.from_string(template).render(
        language=current_language(),
        say=say,
        duration=duration,
        brief=brief,
        title=title,
        sections=sections,
        facts=facts,
        choices=choices,
        checks=checks,
        timed=timed,
        results=results,
        total=sum(row.seconds for row in timed if not row.reused),
    )
    state.write_atomically(path, page)
