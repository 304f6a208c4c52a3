"""What a run has made, as pictures for its report: images as they are, meshes and scenes drawn."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bringup import state
from bringup.errors import BringupError
from bringup.report.messages import say_error
from bringup.report.view.page import view_page
from bringup.report.view.preview import preview_png
from bringup.report.view.read import SUFFIXES, read_geometry

_MEDIA = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}
_LARGEST = 8 << 20


@dataclass(frozen=True)
class Shown:
    """One result. `picture`: a data URL; `page`: the viewer's, relative to the report; `remark`: why none."""

    title: str
    path: str
    picture: str | None = None
    page: str | None = None
    remark: str = ""


def show_results(files: Sequence[Path], folder: Path) -> list[Shown]:
    """Draw each file; viewers' pages are written to `folder/views`. What cannot be drawn is named."""
    return [_show(file, folder, number) for number, file in enumerate(files, 1)]


def _show(file: Path, folder: Path, number: int) -> Shown:
    media = _MEDIA.get(file.suffix.lower())
    title = f"{file.parent.name}/{file.name}"
    if media:
        if file.stat().st_size > _LARGEST:
            return Shown(title, str(file))
        return Shown(title, str(file), f"data:{media};base64,{base64.b64encode(file.read_bytes()).decode()}")
    if file.suffix.lower() not in SUFFIXES:
        return Shown(title, str(file))
    try:
        geometry = read_geometry(file)
    except BringupError as error:
        return Shown(title, str(file), remark=say_error(error))
    still = preview_png(geometry)
    page = f"views/{number}-{file.stem}.html"
    state.write_atomically(folder / page, view_page(geometry, title, still))
    return Shown(title, str(file), f"data:image/png;base64,{base64.b64encode(still).decode()}", page)
