"""Wrong arguments raise before anything is drawn."""

from __future__ import annotations

import pytest
import torch

from portable_kernels.rasterizer import GaussianRasterizer, mark_visible

from .scenes import Scene, random_scene, settings


def _double(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape, dtype=torch.float64)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shs": None}, "SHs or precomputed colors"),
        ({"colors_precomp": _double(6, 3)}, "SHs or precomputed colors"),
        ({"scales": None}, "scale/rotation pair or precomputed 3D covariance"),
        ({"rotations": None}, "scale/rotation pair or precomputed 3D covariance"),
        ({"scales": None, "rotations": None}, "scale/rotation pair or precomputed 3D covariance"),
        ({"cov3D_precomp": _double(6, 6)}, "scale/rotation pair or precomputed 3D covariance"),
    ],
)
def test_exactly_one_of_each_pair(changes: dict[str, torch.Tensor | None], words: str) -> None:
    with pytest.raises(Exception, match=r"[Pp]lease provide") as raised:
        GaussianRasterizer(settings())(**{**random_scene(6).arguments, **changes})
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"means3D": _double(6, 4)}, r"means3D must have dimensions \(num_points, 3\)"),
        ({"means3D": _double(6)}, r"means3D must have dimensions \(num_points, 3\)"),
        ({"opacities": _double(5, 1)}, "opacities"),
        ({"shs": _double(6, 15, 3)}, "degree 3 needs 16"),
        ({"shs": _double(6, 48)}, "shs must have dimensions"),
        ({"scales": _double(6, 1)}, "scales"),
        ({"rotations": _double(6, 3)}, "rotations"),
        ({"means2D": _double(6, 4)}, "means2D"),
        ({"opacities": torch.zeros(6, 1)}, "opacities is of type torch.float32"),
        ({"means3D": torch.zeros(6, 3, dtype=torch.int64)}, "floating"),
        ({"scales": torch.zeros(6, 3, dtype=torch.float64, device="meta")}, "scales is on meta"),
    ],
)
def test_names_the_tensor(changes: dict[str, torch.Tensor], words: str) -> None:
    with pytest.raises(RuntimeError, match=words):
        Scene({**random_scene(6).arguments, **changes}).render(settings())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sh_degree": 4}, "sh_degree"),
        ({"bg": _double(4)}, "bg"),
        ({"viewmatrix": _double(3, 4)}, "viewmatrix"),
        ({"campos": torch.zeros(3)}, "campos is of type"),
        ({"image_height": 0}, "size"),
        ({"tanfovx": 0.0}, "tanfovx"),
        ({"tanfovy": float("nan")}, "tanfovy"),
    ],
)
def test_names_the_setting(changes: dict[str, object], words: str) -> None:
    with pytest.raises(RuntimeError, match=words):
        random_scene(6).render(settings(**changes))


def test_debug_keeps_what_failed(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    scene = random_scene(3)
    scene.render(settings(debug=True))
    assert not (tmp_path / "snapshot_fw.dump").exists()
    scene.arguments["shs"] = scene.arguments["shs"][:, :4]
    with pytest.raises(RuntimeError, match="needs 16"):
        scene.render(settings(debug=True))
    kept = torch.load(tmp_path / "snapshot_fw.dump", weights_only=True)
    assert torch.equal(kept["means3D"], scene.arguments["means3D"])
    assert kept["sh_degree"] == 3


def test_positions_have_three_columns() -> None:
    with pytest.raises(RuntimeError, match="num_points, 3"):
        mark_visible(_double(4, 2), torch.eye(4, dtype=torch.float64))
