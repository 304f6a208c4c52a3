"""SUGAR's ten networks (DeepPrep's real source): as pickles, and what two environments give for them.

`sugar.py make SOURCE MODELS` writes the ten models as DeepPrep ships them: whole pickled modules, here with
random weights. `sugar.py run SOURCE REBUILT OUT.npz` opens what `bringup rebuild` made of them and keeps the
outputs, and those of SUGAR's sphere interpolation; with `PYTHONPATH` leading to compiled torch_scatter and
pytorch3d, theirs. `sugar.py compare A.npz B.npz` exits 1 above a relative error of 1e-4.
SOURCE: `deepprep/SUGAR` of DeepPrep 04af8f35, which builds its networks on a GPU.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

BOUND = 1e-4
NAMES = [f"{side}_NoRigid_904_fsaverage{level}" for level in (3, 4, 5, 6) for side in ("lh", "rh")]
NAMES += [f"{side}_Rigid_904_fsaverage6" for side in ("lh", "rh")]


def make(source: Path, models: Path) -> None:
    from gatunet_model import GatUNet

    for seed, name in enumerate(NAMES):
        torch.manual_seed(seed)
        level = f"fsaverage{name[-1]}"
        keywords = {"in_channels": 20, "out_channels": 3, "num_heads": 8, "dropout": 0.0, "input_dropout": 0}
        keywords |= {"use_position_decoding": True, "use_residual": False, "ico_level": level}
        model = GatUNet(**keywords, euler_scale=None, rigid="_Rigid_" in name).cuda().eval()
        folder = models / "SUGAR" / "model_files" / level
        folder.mkdir(parents=True, exist_ok=True)
        torch.save({"model": model}, folder / f"{name}.model")


def sphere(source: Path, level: str) -> torch.Tensor:
    """Vertices (n, 3) of an icosahedral sphere."""
    from nibabel.freesurfer import read_geometry

    return (
        torch.from_numpy(read_geometry(source / "utils" / "auxi_data" / f"{level}.sphere")[0]).float().cuda()
    )


def network(file: Path) -> torch.nn.Module:
    """As the recipe's patch opens it."""
    from gatunet_model import GatUNet
    from safetensors import safe_open

    with safe_open(file, "pt") as weights:
        model = GatUNet(**json.loads(weights.metadata()["keywords"]))
        model.load_state_dict({name: weights.get_tensor(name) for name in weights.keys()})  # noqa: SIM118
    return model.cuda().eval()


def interpolated(source: Path) -> dict[str, np.ndarray[Any, Any]]:
    from utils.interp_fine import resample_sphere_surface_barycentric, resample_sphere_surface_nearest

    fine = sphere(source, "fsaverage6")
    generator = np.random.default_rng(1)
    turn = torch.from_numpy(np.linalg.qr(generator.normal(size=(3, 3)))[0]).float().cuda()
    values = torch.from_numpy(generator.normal(size=(len(fine), 3))).float().cuda()
    near = resample_sphere_surface_nearest(fine, fine @ turn, values)
    return {
        "nearest": near.cpu().numpy(),
        "barycentric": resample_sphere_surface_barycentric(fine, fine @ turn, values).cpu().numpy(),
    }


@torch.no_grad()
def run(source: Path, rebuilt: Path, out: Path) -> None:
    import pytorch3d
    import torch_scatter

    print(torch_scatter.__file__, pytorch3d.__file__)
    torch.backends.cuda.matmul.allow_tf32 = False
    results = interpolated(source)
    for seed, name in enumerate(NAMES):
        (file,) = rebuilt.rglob(f"{name}.safetensors")
        places = sphere(source, f"fsaverage{name[-1]}")
        features = np.random.default_rng(seed).normal(size=(len(places), 2)).astype("f4")
        moved, angles = network(file)(torch.from_numpy(features).cuda(), places)
        results |= {f"{name}.moved": moved.cpu().numpy(), f"{name}.angles": angles.cpu().numpy()}
    np.savez(out, **results)


def compare(ours: Path, theirs: Path) -> float:
    first, second = np.load(ours), np.load(theirs)
    if set(first.files) != set(second.files):
        sys.exit("not the same outputs")
    worst = 0.0
    for name in first.files:
        error = float(np.abs(first[name] - second[name]).max() / np.abs(second[name]).max())
        worst = max(worst, error)
        print(f"{name:35s} {error:.1e}")
    print(f"{len(first.files)} outputs, largest relative error {worst:.1e}, allowed {BOUND:.0e}")
    return worst


def main() -> None:
    verb, *given = sys.argv[1:]
    paths = [Path(word) for word in given]
    if verb == "compare":
        sys.exit(compare(*paths) > BOUND)
    sys.path.insert(0, str(paths[0]))
    make(*paths) if verb == "make" else run(*paths)


if __name__ == "__main__":
    main()
