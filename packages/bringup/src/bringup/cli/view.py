"""`bringup view`: a mesh or a Gaussian scene as one web page, and a picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer


def command(
    path: Annotated[Path, typer.Argument(metavar="MESH|SCENE", help=".obj, .ply, .glb, or a folder.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The page (default: beside it).")
    ] = None,
    picture: Annotated[Path | None, typer.Option("--png", help="Write the still picture, too.")] = None,
    up: Annotated[str | None, typer.Option(metavar="AXIS", help="x, y, z, -x, -y or -z points up.")] = None,
    limit: Annotated[int, typer.Option(help="Show at most this many points.", min=1)] = 600_000,
    as_json: Annotated[bool, typer.Option("--json", help="What was shown, as JSON.")] = False,
) -> None:
    """Write one HTML page that shows the file in any browser, without network; print its path."""
    from bringup import state
    from bringup.errors import BringupError
    from bringup.report import console
    from bringup.report.view.page import view_page
    from bringup.report.view.preview import preview_png
    from bringup.report.view.read import find_file, read_geometry
    from bringup.report.waiting import Waiting

    if up is not None and up not in ("x", "y", "z", "-x", "-y", "-z"):
        raise BringupError("view-axis", exit_code=2, given=up)
    file = find_file(path.expanduser())
    with Waiting("view.reading"):
        geometry = read_geometry(file, limit)
    if up:
        geometry = replace(geometry, up=up)
    with Waiting("view.drawing"):
        still = preview_png(geometry)
        text = view_page(geometry, file.name, still)
    page = (output or file.with_suffix(".html")).absolute()
    if page.is_dir():
        page /= f"{file.stem}.html"
    state.write_atomically(page, text)
    if picture:
        if picture.is_dir():
            picture /= f"{file.stem}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(still)
    if as_json:
        document = {
            "schema": "bringup/view/1",
            "file": str(file),
            "page": str(page),
            "vertices": geometry.count,
            "triangles": len(geometry.triangles) // 3,
            "left_out": geometry.left_out,
        }
        console.print_json(document)
    else:
        typer.echo(page)
