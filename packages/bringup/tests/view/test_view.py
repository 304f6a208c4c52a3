"""`bringup view`: what the readers get out of real files, the picture, and the page."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import zlib
from importlib import resources
from pathlib import Path

import jsonschema
import numpy
import pytest
import torch
from PIL import Image

from bringup.cli.main import run
from bringup.errors import BringupError
from bringup.report.view.geometry import Geometry
from bringup.report.view.preview import DISTANCE, camera, preview_png, upright
from bringup.report.view.read import find_file, read_geometry
from bringup.steps.demos.colmap_scene import make_views

from .shapes import Mesh, ball, write_gaussians, write_glb, write_obj, write_ply


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return ball()


def write(path: Path, mesh: Mesh, kind: str) -> Path:
    if kind == "obj":
        write_obj(path, mesh)
    elif kind == "glb":
        write_glb(path, mesh)
    else:
        write_ply(path, mesh, {"ascii": "", "little": "<", "big": ">"}[kind])
    return path


FILES = [("mesh.obj", "obj"), ("a.ply", "ascii"), ("b.ply", "little"), ("c.PLY", "big"), ("mesh.glb", "glb")]


@pytest.mark.parametrize(("name", "kind"), FILES)
def test_a_mesh_is_read_as_it_was_written(name: str, kind: str, mesh: Mesh, tmp_path: Path) -> None:
    geometry = read_geometry(write(tmp_path / name, mesh, kind))
    vertices, triangles, colours = mesh
    places = torch.tensor(geometry.positions).view(-1, 3)
    if kind == "glb":  # the node turns y to z, z to -y, and moves it by 10
        vertices = torch.stack([vertices[:, 0] + 10, -vertices[:, 2], vertices[:, 1]], 1)
    torch.testing.assert_close(places, vertices, atol=1e-5, rtol=0)
    assert list(geometry.triangles) == triangles.flatten().tolist()
    shown = torch.frombuffer(bytearray(geometry.colours), dtype=torch.uint8).view(-1, 3)
    assert (shown.float() / 255 - colours).abs().max() < 0.003
    assert geometry.up == ("y" if kind == "glb" else "z")


def test_polygons_and_numbers_from_the_end(tmp_path: Path) -> None:
    file = tmp_path / "square.obj"
    file.write_text("v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvn 0 0 1\nf -4/1/1 -3/2/1 -2/3/1 -1/4/1\n")
    geometry = read_geometry(file)
    assert list(geometry.triangles) == [0, 1, 2, 0, 2, 3]
    assert geometry.colours == b""


@pytest.mark.parametrize("degree", [0, 3])
def test_gaussians_are_points_with_their_colour_and_size(degree: int, tmp_path: Path) -> None:
    model = tmp_path / "model"
    write_gaussians(model / "point_cloud" / "iteration_7000" / "point_cloud.ply", 10, degree)
    file = model / "point_cloud" / "iteration_30000" / "point_cloud.ply"
    colours = write_gaussians(file, 1000, degree)
    assert find_file(model) == file  # the last iteration, by number
    geometry = read_geometry(file)
    kept = [index for index in range(1000) if index % 4]
    assert geometry.count == len(kept) and geometry.left_out == 250
    shown = torch.frombuffer(bytearray(geometry.colours), dtype=torch.uint8).view(-1, 3).float() / 255
    assert (shown - colours[kept]).abs().max() < 0.003
    assert geometry.radii[0] == pytest.approx(0.03, rel=1e-5)
    assert read_geometry(file, limit=100).count <= 100


def test_a_scene_stands_as_its_cameras_saw_it(tmp_path: Path) -> None:
    """`cameras.json` as 3DGS's train.py writes it beside the point cloud, of the demo's cameras: z is up."""
    file = tmp_path / "point_cloud" / "iteration_30000" / "point_cloud.ply"
    write_gaussians(file, 100)
    assert read_geometry(file).up == "-y"  # COLMAP's habit, where nothing is known
    rotations = [view.rotation.T for view in make_views(12)]
    listed = tmp_path / "cameras.json"
    listed.write_text(json.dumps([{"id": 0, "rotation": rotation.tolist()} for rotation in rotations]))
    assert read_geometry(file).up == "z"
    turned = [rotation[[1, 2, 0]] for rotation in rotations]  # the world with another axis up
    listed.write_text(json.dumps([{"rotation": rotation.tolist()} for rotation in turned]))
    assert read_geometry(file).up == "y"
    for damaged in ("", "{}", "[]", '[{"rotation": [[1, 2]]}]', '[{"rotation": "abc"}]', "[3]"):
        listed.write_text(damaged)
        assert read_geometry(file).up == "-y", damaged


def test_a_cloud_without_faces_is_thinned(tmp_path: Path) -> None:
    rows = "".join(f"{i} 0 0 {i % 256} 0 0\n" for i in range(1000))
    properties = "".join(f"property float {axis}\n" for axis in "xyz")
    properties += "".join(f"property uchar {name}\n" for name in ("red", "green", "blue"))
    file = tmp_path / "cloud.ply"
    file.write_text(f"ply\nformat ascii 1.0\nelement vertex 1000\n{properties}end_header\n{rows}")
    geometry = read_geometry(file, limit=300)
    assert (geometry.count, geometry.left_out) == (250, 750)
    assert list(geometry.positions[:6]) == [0, 0, 0, 4, 0, 0]
    assert geometry.colours[:6] == bytes([0, 0, 0, 4, 0, 0])


BAD = {
    "cut.ply": b"ply\nformat binary_little_endian 1.0\nelement vertex 1000000000000\nproperty float x\n"
    b"property float y\nproperty float z\nend_header\n1234",
    "ascii.ply": b"ply\nformat ascii 1.0\nelement vertex 1000000000000\nproperty float x\nproperty float y\n"
    b"property float z\nend_header\n1 2 3\n",
    "face.ply": b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\n"
    b"element face 1\nproperty list uchar int vertex_indices\nend_header\n1 2 3\n3 0 1 2\n",
    "faces.ply": b"ply\nformat binary_little_endian 1.0\nelement vertex 1\nproperty float x\nproperty float y\n"
    b"property float z\nelement face 9\nproperty list int int vertex_indices\nend_header\n"
    + bytes(12)
    + b"\xff\xff\xff\x7f",
    "type.ply": b"ply\nformat ascii 1.0\nelement vertex 1\nproperty quad x\nend_header\n1\n",
    "word.obj": b"v 0 0 zero\n",
    "corner.obj": b"v 0 0 0\nf 1 2 3\n",
    "zero.obj": b"v 0 0 0\nf 0 0 0\n",
    "cut.glb": b"glTF\x02\0\0\0\xff\0\0\0",
    "loop.glb": b"",
    "empty.obj": b"# nothing\n",
    "kind.stl": b"solid\n",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    content = BAD[name]
    if name == "loop.glb":
        text = json.dumps({"nodes": [{"children": [0]}], "scenes": [{"nodes": [0]}]}).encode()
        text += b" " * (-len(text) % 4)
        head = (20 + len(text)).to_bytes(4, "little") + len(text).to_bytes(4, "little")
        content = b"glTF\x02\0\0\0" + head + b"JSON" + text
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BringupError) as refused:
        read_geometry(tmp_path / name)
    assert refused.value.id in ("view-unreadable", "view-empty", "view-kind")


def test_nothing_to_show_is_said(tmp_path: Path) -> None:
    with pytest.raises(BringupError, match="view-nothing"):
        find_file(tmp_path)


@pytest.mark.parametrize("up", ["x", "y", "z", "-x", "-y", "-z"])
def test_cameras_are_right_handed_and_upright(up: str) -> None:
    for axes in (upright(up), camera(up)):
        matrix = numpy.array(axes)
        numpy.testing.assert_allclose(matrix @ matrix.T, numpy.eye(3), atol=1e-12)
        assert numpy.linalg.det(matrix) == pytest.approx(1)
    sign = -1 if up.startswith("-") else 1
    assert sign * camera(up)[1]["xyz".index(up[-1])] > 0.9  # what is up there is up in the picture


def test_the_picture_shows_the_mesh_where_it_is(mesh: Mesh, tmp_path: Path) -> None:
    png = preview_png(read_geometry(write(tmp_path / "mesh.obj", mesh, "obj")), 128)
    image = numpy.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    assert image.shape == (128, 128, 3)
    covered = (image < 245).any(axis=2)
    # The outline of a ball of radius 0.75, and what its bumps add.
    _, radius = read_geometry(tmp_path / "mesh.obj").frame()
    distance = DISTANCE * radius
    expected = math.pi * (64 / math.tan(math.radians(20)) * 0.75 / math.sqrt(distance**2 - 0.75**2)) ** 2
    assert covered.sum() == pytest.approx(expected, rel=0.12)
    # Blue is the half with z > 0: it is above.
    blue = image[..., 2] > image[..., 0] + 20
    rows = numpy.nonzero(blue)[0]
    assert rows.size and rows.mean() < 64


def test_points_hide_what_is_behind_them() -> None:
    from array import array

    back = camera("z")[2]
    near, far = back, tuple(-value for value in back)
    positions = array("f", [*far, *near])
    colours = bytes([0, 0, 255, 255, 0, 0])
    for order in (slice(None), slice(None, None, -1)):
        places = [positions[:3], positions[3:]][order]
        shades = [colours[:3], colours[3:]][order]
        geometry = Geometry(places[0] + places[1], shades[0] + shades[1], radii=array("f", [0.2, 0.2]))
        image = Image.open(io.BytesIO(preview_png(geometry, 64)))
        assert image.getpixel((32, 32)) == (255, 0, 0)


def test_the_page_holds_everything_and_fetches_nothing(
    mesh: Mesh, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "<b>mesh.obj", mesh, "obj")
    code = run(
        ["view", str(file), "-o", str(tmp_path / "page.html"), "--png", str(tmp_path / "p.png"), "--json"]
    )
    document = json.loads(capsys.readouterr().out)
    assert code == 0 and document["triangles"] == len(mesh[1])
    jsonschema.validate(
        document, json.loads((resources.files("bringup.report") / "schemas" / "view.json").read_text("utf-8"))
    )
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<b>mesh" not in page and "&lt;b&gt;mesh.obj" in page
    assert not re.search(r"""(?:src|href)=["'](?!data:)|https?://|@import|url\(""", page)
    assert "default-src 'none'" in page
    packed = re.search(r'id="data-positions">([^<]*)<', page)
    assert packed
    values = numpy.frombuffer(zlib.decompress(base64.b64decode(packed[1])), dtype="<f4")
    numpy.testing.assert_allclose(values.reshape(-1, 3), mesh[0].numpy(), atol=1e-6)
    assert Image.open(tmp_path / "p.png").size == (480, 480)


def test_a_folder_is_where_to_write(mesh: Mesh, tmp_path: Path) -> None:
    file = write(tmp_path / "chair.obj", mesh, "obj")
    shown = tmp_path / "shown"
    shown.mkdir()
    assert run(["view", str(file), "-o", str(shown), "--png", str(shown)]) == 0
    assert sorted(made.name for made in shown.iterdir()) == ["chair.html", "chair.png"]


def test_usage_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["view", str(tmp_path)]) == 2
    assert run(["view", str(tmp_path / "a.obj"), "--up", "w"]) == 2
    assert "Traceback" not in capsys.readouterr().err
