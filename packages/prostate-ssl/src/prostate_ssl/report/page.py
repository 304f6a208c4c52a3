"""The sections as one HTML page, or as JSON for a page that embeds them."""

from __future__ import annotations

import base64
import html
import json
import os
from pathlib import Path
from typing import Any

from prostate_ssl.files import write_atomically
from prostate_ssl.report.sections import Section

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 2rem auto; padding: 0 1rem;
color: #1c2530 }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem; border-bottom: 1px solid #d5dbe1 }
img { max-width: 100% } table { border-collapse: collapse }
td, th { text-align: left; padding: .2rem .8rem .2rem 0;
vertical-align: top; border-bottom: 1px solid #eceff2; overflow-wrap: anywhere } th { font-weight: 600 }
"""


def write_page(title: str, sections: list[Section], path: Path) -> None:
    """Write one self-contained HTML file: pictures lie in it, nothing is fetched."""
    body = "".join(_section(section) for section in sections)
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1>{body}</html>\n"
    )
    write_atomically(path, page.encode())


def _section(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>"]
    if section.text:
        parts.append(f"<p>{html.escape(section.text)}</p>")
    if section.image:
        data = base64.b64encode(section.image.read_bytes()).decode()
        parts.append(f'<img alt="{html.escape(section.title)}" src="data:image/png;base64,{data}">')
    if section.rows:
        head = "".join(f"<th>{html.escape(c)}</th>" for c in section.columns)
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in section.rows
        )
        parts.append(f"<table><tr>{head}</tr>{rows}</table>")
    return "".join(parts)


def write_sections(title: str, sections: list[Section], stages: list[dict[str, Any]], path: Path) -> None:
    """Write `bringup/run-report/1`: sections with pictures relative to `path`, and the stages' times."""
    document = {
        "schema": "bringup/run-report/1",
        "title": title,
        "sections": [
            {
                "title": s.title,
                "text": s.text,
                "image": Path(os.path.relpath(s.image, path.parent)).as_posix() if s.image else None,
                "table": {"columns": list(s.columns), "rows": [list(r) for r in s.rows]} if s.rows else None,
            }
            for s in sections
        ],
        "stages": stages,
    }
    write_atomically(path, (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode())
