"""One HTML file with the geometry inside and a small WebGL viewer; nothing is fetched from anywhere."""

from __future__ import annotations

import base64
import json
import sys
import zlib
from array import array
from importlib import resources

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from bringup.report.messages import current_language, say
from bringup.report.view.geometry import Geometry
from bringup.report.view.preview import AZIMUTH, DISTANCE, ELEVATION, FIELD, upright

_WORDS = ("drag", "light", "dark", "reset", "size", "up", "no-webgl")


def _packed(values: array[float] | array[int] | bytes) -> str:
    if isinstance(values, array) and sys.byteorder == "big":
        values = array(values.typecode, values)
        values.byteswap()
    data = values if isinstance(values, bytes) else values.tobytes()
    return base64.b64encode(zlib.compress(data, 6)).decode()


def view_page(geometry: Geometry, title: str, preview: bytes) -> str:
    """The page's text.

    Args:
        preview: a PNG, shown where there is no WebGL.
    """
    centre, radius = geometry.frame()
    scene = {
        "centre": centre,
        "radius": radius,
        "frame": upright(geometry.up),
        "azimuth": AZIMUTH,
        "elevation": ELEVATION,
        "field": FIELD,
        "distance": DISTANCE,
        "words": {name: say(f"view.{name}") for name in _WORDS},
    }
    triangles = len(geometry.triangles) // 3
    if triangles:
        facts = say("view.mesh", vertices=f"{geometry.count:,}", triangles=f"{triangles:,}")
    else:
        facts = say("view.points", shown=f"{geometry.count:,}", all=f"{geometry.count + geometry.left_out:,}")
    template = (resources.files("bringup.report") / "templates" / "view.html").read_text(encoding="utf-8")
    engine = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return engine.from_string(template).render(
        language=current_language(),
        title=title,
        facts=facts,
        words=scene["words"],
        scene=Markup(json.dumps(scene).replace("<", "\\u003c")),
        data={
            "positions": _packed(geometry.positions),
            "colours": _packed(geometry.colours),
            "triangles": _packed(geometry.triangles),
            "radii": _packed(geometry.radii),
        },
        preview=base64.b64encode(preview).decode(),
    )
