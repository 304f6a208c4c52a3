"""Run the operators of small extensions on every device and compare them with plain formulas in float64.

Standard library and torch only, Python 3.8 syntax: started in foreign environments with `-I`.
"""

import importlib
import json
import sys
import traceback


def scatter(torch, device):
    from torch_scatter import scatter_max, scatter_mean

    torch.manual_seed(0)
    source = torch.randn(1000, 16)
    index = torch.randint(0, 50, (1000,))
    count = torch.zeros(50, dtype=torch.float64).index_add_(0, index, torch.ones(1000, dtype=torch.float64))
    total = torch.zeros(50, 16, dtype=torch.float64).index_add_(0, index, source.double())
    mean = scatter_mean(source.to(device), index.to(device), dim=0, dim_size=50).cpu().double()
    error = (mean - total / count.clamp(min=1)[:, None]).abs().max().item()
    best, where = scatter_max(source.to(device), index.to(device), dim=0, dim_size=50)
    rows = torch.arange(16).expand(50, 16)
    present = (count > 0)[:, None].expand(50, 16)
    picked = source[where.cpu().clamp(max=999), rows]
    error = max(error, (picked - best.cpu())[present].abs().max().item())
    return error, 1e-5


def nearest(torch, device):
    from pytorch3d.ops.knn import knn_points

    torch.manual_seed(0)
    first, second = torch.randn(2, 300, 3), torch.randn(2, 500, 3)
    found = knn_points(first.to(device), second.to(device), K=4)
    exact = torch.cdist(first.double(), second.double()).pow(2).topk(4, largest=False).values
    return (found.dists.cpu().double() - exact).abs().max().item(), 1e-4


def cubes(torch, device):
    from torchmcubes import marching_cubes

    axis = torch.linspace(-1, 1, 48)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    vertices, faces = marching_cubes((0.7 - (x * x + y * y + z * z).sqrt()).contiguous().to(device), 0.0)
    radius = (vertices.cpu().double() * (2 / 47) - 1).norm(dim=1)
    if len(faces) < 1000:
        raise AssertionError("a sphere of %d triangles" % len(faces))
    return (radius - 0.7).abs().max().item(), 2e-3


def neighbour_distance(torch, device):
    from simple_knn._C import distCUDA2

    torch.manual_seed(0)
    points = torch.randn(2000, 3)
    found = distCUDA2(points.to(device)).cpu().double()
    exact = torch.cdist(points.double(), points.double()).pow(2).topk(4, largest=False).values[:, 1:].mean(1)
    return ((found - exact).abs() / exact).max().item(), 1e-3


def rasterise(torch, device):
    """One Gaussian in front of the camera: the colour at its centre, and a gradient that is finite."""
    import math

    from diff_gaussian_rasterization import GaussianRasterizationSettings, GaussianRasterizer

    size, tangent, near, far = 64, math.tan(math.radians(30)), 0.01, 100.0
    view = torch.eye(4)
    projection = torch.zeros(4, 4)
    projection[0, 0] = projection[1, 1] = 1 / tangent
    projection[2, 2], projection[2, 3], projection[3, 2] = far / (far - near), -far * near / (far - near), 1.0
    values = {
        "image_height": size, "image_width": size, "tanfovx": tangent, "tanfovy": tangent,
        "bg": torch.zeros(3), "scale_modifier": 1.0, "viewmatrix": view.t(),
        "projmatrix": view.t() @ projection.t(), "sh_degree": 0, "campos": torch.zeros(3),
        "prefiltered": False, "debug": False, "antialiasing": False,
    }  # fmt: skip
    known = getattr(GaussianRasterizationSettings, "_fields", tuple(values))
    moved = {
        name: value.to(device) if hasattr(value, "to") else value
        for name, value in values.items()
        if name in known
    }
    place = torch.tensor([[0.0, 0.0, 3.0]], device=device, requires_grad=True)
    colour = torch.tensor([[0.2, 0.5, 0.8]], device=device, requires_grad=True)
    opacity = torch.tensor([[0.6]], device=device, requires_grad=True)
    image = GaussianRasterizer(GaussianRasterizationSettings(**moved))(
        means3D=place,
        means2D=torch.zeros_like(place, requires_grad=True),
        opacities=opacity,
        colors_precomp=colour,
        scales=torch.full((1, 3), 0.5, device=device),
        rotations=torch.tensor([[1.0, 0.0, 0.0, 0.0]], device=device),
    )[0]
    image.sum().backward()
    if not all(
        bool(torch.isfinite(leaf.grad).all()) and leaf.grad.abs().sum() > 0 for leaf in (colour, opacity)
    ):
        raise AssertionError("the gradient is not finite or zero")
    seen = image[:, size // 2, size // 2].detach().cpu()
    return (seen - 0.6 * torch.tensor([0.2, 0.5, 0.8])).abs().max().item(), 5e-3


def similarity(torch, device):
    from fused_ssim import fused_ssim

    torch.manual_seed(0)
    first, second = torch.rand(1, 3, 40, 44), torch.rand(1, 3, 40, 44)
    offsets = torch.arange(11, dtype=torch.float64) - 5
    line = torch.exp(-(offsets**2) / (2 * 1.5**2))
    window = (line[:, None] * line[None]) / line.sum() ** 2

    def blur(image):
        return torch.nn.functional.conv2d(image.transpose(0, 1), window[None, None], padding=5).transpose(
            0, 1
        )

    a, b = first.double(), second.double()
    ma, mb = blur(a), blur(b)
    va, vb, cov = blur(a * a) - ma * ma, blur(b * b) - mb * mb, blur(a * b) - ma * mb
    exact = ((2 * ma * mb + 1e-4) * (2 * cov + 9e-4)) / ((ma * ma + mb * mb + 1e-4) * (va + vb + 9e-4))
    leaf = first.to(device).requires_grad_()
    found = fused_ssim(leaf, second.to(device))
    found.backward()
    if not bool(torch.isfinite(leaf.grad).all()):
        raise AssertionError("the gradient is not finite")
    return abs(found.item() - exact.mean().item()), 1e-4


OPERATORS = {
    "torch_scatter": scatter,
    "pytorch3d": nearest,
    "torchmcubes": cubes,
    "simple_knn": neighbour_distance,
    "diff_gaussian_rasterization": rasterise,
    "fused_ssim": similarity,
}


def main():
    arguments, answer = json.loads(sys.argv[1]), sys.argv[2]
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    rows = []
    for module in arguments["modules"].split():
        row = {"check": "operator", "subject": "%s on %s" % (module, name), "ok": False}
        try:
            version = getattr(importlib.import_module(module), "__version__", "")
            error, tolerance = OPERATORS[module](torch, device)
            row["ok"] = error <= tolerance
            row["detail"] = "%s error %.1e, allowed %.0e" % (version, error, tolerance)
            told = {"version": version, "error": "%.1e" % error, "allowed": "%.0e" % tolerance}
            row["seen"], row["parameters"] = "error-allowed", told
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            row["detail"] = "%s: %s (%s:%d)" % (type(error).__name__, error, last.filename, last.lineno)
        rows.append(row)
    with open(answer, "w") as stream:
        json.dump({"ok": all(row["ok"] for row in rows), "rows": rows}, stream)


main()
