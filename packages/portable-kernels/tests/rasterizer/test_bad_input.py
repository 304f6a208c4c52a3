"""Wrong arguments raise before anything is drawn."""

from __future__ import annotations

import pytest
import torch

from portable_kernels.rasterizer import GaussianRasterizer, mark_visible, rasterize_gaussians

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


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shs": torch.zeros(6, 0, 3)}, r"exactly one of shs and colors_precomp, not shs \(6, 0, 3\)"),
        ({"shs": torch.zeros(0)}, "exactly one of shs and colors_precomp"),
        ({"scales": torch.zeros(0), "rotations": torch.zeros(0)}, "exactly one of scales with rotations"),
        ({"rotations": torch.zeros(0, 4)}, r"scales \(6, 3\), rotations \(0, 4\)"),
        ({"scales": torch.zeros(6, 0)}, "exactly one of scales with rotations"),
        ({"rotations": torch.zeros(0), "cov3D_precomp": torch.zeros(6, 6)}, "exactly one of scales with"),
    ],
)
def test_what_is_empty_is_not_given(changes: dict[str, torch.Tensor], words: str, device: str) -> None:
    """A kernel would read through a null pointer."""
    scene = random_scene(6).to(device, torch.float32).arguments
    scene = {"colors_precomp": torch.zeros(0), "cov3D_precomp": torch.zeros(0), **scene, **changes}
    names = (
        "means3D",
        "means2D",
        "shs",
        "colors_precomp",
        "opacities",
        "scales",
        "rotations",
        "cov3D_precomp",
    )
    with pytest.raises(RuntimeError, match=words):
        rasterize_gaussians(
            *(scene[name].to(device) for name in names), settings(dtype=torch.float32, device=device)
        )


def test_a_pair_given_twice() -> None:
    scene = random_scene(6).arguments
    with pytest.raises(RuntimeError, match="exactly one of shs and colors_precomp"):
        rasterize_gaussians(
            *(scene["means3D"], scene["means2D"], scene["shs"], _double(6, 3), scene["opacities"]),
            *(scene["scales"], scene["rotations"], _double(0)),
            settings(),
        )


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


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("shape", [(0,), (3, 4), (16,)])
def test_the_view_has_four_rows(shape: tuple[int, ...], device: str) -> None:
    with pytest.raises(RuntimeError, match=r"viewmatrix must have dimensions \(4, 4\)"):
        mark_visible(torch.zeros(4, 3, device=device), torch.zeros(shape, device=device))
