"""Synthetic multi-parametric prostate MRI: T2, ADC, diffusion images, a gland mask and a label.

Anatomy is drawn in millimetres and sampled on two grids, as a scanner does: T2 finely, diffusion coarsely and
a little displaced. Diffusion images follow S(b) = S(0) · exp(-b · ADC) with Rician noise.

Lesions are dark on T2 and ADC and bright at high b. The label is 1 where the disease is multifocal (five or
six foci) and 0 where it is solitary. Every image has a gain of its own that varies over the slice by a third,
as near a receive coil, and a contrast of its own, as from another scanner. Histograms of grey values say
little of the label, therefore; what stands out from its surroundings says all.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from prostate_ssl.data.importing.parallel import parallel_map
from prostate_ssl.data.layout import MASK_NAME
from prostate_ssl.data.tables import write_patient_table
from prostate_ssl.data.volumes import write_volume
from prostate_ssl.errors import ProstateError

B_VALUES = (50, 400, 1000)
MIDDLING_ADC = np.float32(1300.0)
EDGE_SHARE = 0.45
FOCI = ((1, 1), (5, 6))
"""Fewest and most foci of a case of label 0 and of label 1."""
FOCUS_RADIUS_MM = (6.0, 7.5)
FOCUS_LENGTH_MM = 20.0
"""Half length of a focus from head to foot: most slices of the gland show it."""
GAIN_SPREAD = 0.35
"""Standard deviation of the gain's logarithm over the slice."""
CONTRAST_SPREAD = 0.2
"""Farthest that the logarithm of an image's exponent of contrast lies from 0."""
GAIN_WAVELENGTHS_MM = (45.0, 110.0)
GLAND_MM = (24.0, 18.0, 22.0)
"""Half axes of a middling gland: left–right, front–back, head–foot."""
RETIRED = {"label_kind": "multifocal", "scanner_spread": 1.0}
"""Settings that older folders name and phantoms no longer have, with the values of the same phantoms."""


@dataclass(frozen=True)
class PhantomSettings:
    """What all cases of a set share.

    Attributes:
        size, slices: pixels a side and slices of the T2 image.
        field_of_view, slice_distance: millimetres.
        seed: of everything random.
        gland_spread: how far a gland's axes are from those of a middling one at most, a share below 0.3.
    """

    size: int = 192
    slices: int = 16
    field_of_view: float = 180.0
    slice_distance: float = 3.6
    seed: int = 0
    gland_spread: float = 0.05

    def __post_init__(self) -> None:
        if self.size < 32 or self.slices < 4:
            raise ProstateError("A phantom needs at least 32 pixels a side and 4 slices.", exit_code=2)
        if not 0.0 <= self.gland_spread < 0.3:
            raise ProstateError("gland_spread of a phantom lies between 0 and 0.3.", exit_code=2)


@dataclass(frozen=True)
class Tissue:
    """Ideal signals on one grid, (D, H, W) float32: T2 signal, S(0) of diffusion, ADC in 1e-6 mm²/s."""

    t2: np.ndarray
    diffusion: np.ndarray
    adc: np.ndarray
    gland: np.ndarray


@dataclass(frozen=True)
class _Focus:
    centre: np.ndarray
    radius: np.ndarray
    strength: float


@dataclass(frozen=True)
class _Anatomy:
    gland_axes: np.ndarray
    gland_centre: np.ndarray
    body_axes: np.ndarray
    foci: tuple[_Focus, ...]
    waves: np.ndarray
    bladder: float
    zone_contrast: np.ndarray


def _grid(
    shape: tuple[int, int, int], spacing: np.ndarray, shift: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Axis positions are centred on the gland; returns the affine (w, h, d) → RAS and the LPS origin."""
    extent = (np.array(shape[::-1]) - 1) * spacing
    origin = -extent / 2 + shift
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    affine[:3, 3] = [-origin[0], -origin[1], origin[2]]
    return affine, origin


def _axes(shape: tuple[int, int, int], spacing: np.ndarray, origin: np.ndarray) -> tuple[np.ndarray, ...]:
    d, h, w = shape
    x = (origin[0] + spacing[0] * np.arange(w, dtype=np.float32))[None, None, :]
    y = (origin[1] + spacing[1] * np.arange(h, dtype=np.float32))[None, :, None]
    z = (origin[2] + spacing[2] * np.arange(d, dtype=np.float32))[:, None, None]
    return x.astype(np.float32), y.astype(np.float32), z.astype(np.float32)


def _inside(axes: tuple[np.ndarray, ...], centre: np.ndarray, radius: np.ndarray, edge: float) -> np.ndarray:
    """Soft ellipsoid: 1 inside, 0 outside, `edge` of the radius wide."""
    x, y, z = (
        ((axis - np.float32(c)) / np.float32(r)) ** 2 for axis, c, r in zip(axes, centre, radius, strict=True)
    )
    distance = np.sqrt(x + y + z)
    return np.clip((1.0 - distance) / np.float32(edge) + 0.5, 0.0, 1.0)


def _draw_anatomy(rng: np.random.Generator, label: int, spread: float) -> _Anatomy:
    axes = np.array(GLAND_MM) * rng.uniform(1 - spread, 1 + spread, size=3)
    centre = rng.uniform(-4, 4, size=3) * [1, 1, 0.5]
    waves = np.concatenate(
        [rng.normal(0, 0.35, size=(10, 3)), rng.uniform(0, 2 * np.pi, (10, 1)), rng.uniform(0.3, 1, (10, 1))],
        axis=1,
    )
    strength = rng.uniform(0.5, 0.9)
    low, high = FOCI[label]
    radii = rng.uniform(*FOCUS_RADIUS_MM, size=rng.integers(low, high + 1))
    foci = tuple(
        _Focus(np.array([*place, centre[2]]), np.array([radius, radius, FOCUS_LENGTH_MM]), strength)
        for place, radius in zip(_places_in_gland(rng, axes, centre, radii), radii, strict=True)
    )
    body = np.array([rng.uniform(0.42, 0.44), rng.uniform(0.36, 0.39), 10.0])
    zone_contrast = rng.uniform(0.0, 2.0, size=2)
    return _Anatomy(axes, centre, body, foci, waves, rng.uniform(0.6, 0.7), zone_contrast)


def _places_in_gland(
    rng: np.random.Generator, axes: np.ndarray, centre: np.ndarray, radii: np.ndarray
) -> list[np.ndarray]:
    """Places (x, y) of discs that lie in the gland and, as far as there is room, apart from each other."""
    room = 1.0
    while True:
        places: list[np.ndarray] = []
        for radius in radii:
            for _ in range(400):
                angle, reach = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform())
                place = centre[:2] + (axes[:2] - 0.9 * radius) * reach * [np.cos(angle), np.sin(angle)]
                others = zip(places, radii, strict=False)
                if all(np.hypot(*(place - q)) > room * (radius + r) for q, r in others):
                    places.append(place)
                    break
        if len(places) == len(radii):
            return places
        room *= 0.98


def _texture(axes: tuple[np.ndarray, ...], waves: np.ndarray) -> np.ndarray:
    x, y, z = axes
    total: np.ndarray = np.zeros(np.broadcast_shapes(x.shape, y.shape, z.shape), dtype=np.float32)
    for kx, ky, kz, phase, weight in waves.astype(np.float32):
        total += weight * np.sin(kx * x + ky * y + kz * z * np.float32(0.5) + phase)
    return total / np.float32(3.0)


def _sample_tissue(anatomy: _Anatomy, axes: tuple[np.ndarray, ...], field_of_view: float) -> Tissue:
    x, y, z = axes
    body = _inside((x, y, z * 0), np.zeros(3), anatomy.body_axes * [field_of_view, field_of_view, 1.0], 0.03)
    inner = _inside(
        (x, y, z * 0),
        np.zeros(3),
        anatomy.body_axes * [field_of_view * 0.86, field_of_view * 0.84, 1.0],
        0.04,
    )
    texture = _texture(axes, anatomy.waves)
    t2 = body * 0.75 - inner * 0.42 + inner * 0.05 * texture
    s0 = body * 0.25 + inner * 0.2
    adc = inner * 1300 + (body - inner) * 150
    centre, half = anatomy.gland_centre, anatomy.gland_axes
    parts = [
        # centre, half axes, T2, S0, ADC: rectum wall, rectum content, bladder
        (centre + np.array([0, half[1] + 14, 0]), np.array([15.0, 12.0, 90.0]), 0.35, 0.4, 1200.0),
        (centre + np.array([0, half[1] + 14, 0]), np.array([12.0, 9.0, 90.0]), 0.08, 0.05, 400.0),
        (
            centre + np.array([0, -6, half[2] + 16]),
            np.array([30.0, 24.0, 20.0]),
            anatomy.bladder,
            0.8,
            2700.0,
        ),
    ]
    for place, radius, signal, spin, diffusivity in parts:
        weight = _inside(axes, np.asarray(place), radius, 0.08)
        t2, s0, adc = (
            _blend(v, weight, value) for v, value in ((t2, signal), (s0, spin), (adc, diffusivity))
        )
    gland = _inside(axes, centre, half, 0.10)
    zone = _inside(axes, centre - [0, 0.22 * half[1], 0], half * [0.66, 0.62, 0.75], 0.15)
    on_t2, on_adc = anatomy.zone_contrast.astype(np.float32)
    t2 = _blend(t2, gland, 0.62 + 0.02 * texture - 0.10 * on_t2 * zone + 0.05 * zone * texture)
    s0 = _blend(s0, gland, 0.55 - 0.08 * zone)
    adc = _blend(adc, gland, 1500 - 150 * on_adc * zone + 45 * texture)
    change = np.zeros_like(t2)
    for focus in anatomy.foci:
        change = np.maximum(change, _soft(axes, focus) * gland * np.float32(focus.strength))
    return Tissue(t2 * (1 - 0.42 * change), s0 * (1 + 0.15 * change), adc * (1 - 0.52 * change), gland > 0.5)


def _soft(axes: tuple[np.ndarray, ...], focus: _Focus) -> np.ndarray:
    """A focus with a soft edge, so that it shows middling values too."""
    return _inside(axes, focus.centre, focus.radius, EDGE_SHARE)


def _blend(below: np.ndarray, weight: np.ndarray, above: np.ndarray | float) -> np.ndarray:
    return np.asarray(below + weight * (above - below), dtype=np.float32)


def _uneven_gain(rng: np.random.Generator, axes: tuple[np.ndarray, ...], spread: float) -> np.ndarray:
    """A smooth gain around 1, (1, H, W): the exponential of six plane waves."""
    x, y, _ = axes
    total = np.zeros(np.broadcast_shapes(x.shape, y.shape), dtype=np.float32)
    waves = zip(
        rng.uniform(0, 2 * np.pi, 6),
        rng.uniform(*GAIN_WAVELENGTHS_MM, 6),
        rng.uniform(0, 2 * np.pi, 6),
        strict=True,
    )
    for angle, wavelength, phase in waves:
        along = np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y
        total += np.sin(np.float32(2 * np.pi / wavelength) * along + np.float32(phase))
    return np.exp(np.float32(spread * np.sqrt(2 / 6)) * total)


def _rician(rng: np.random.Generator, signal: np.ndarray, sigma: float) -> np.ndarray:
    real = signal + sigma * rng.standard_normal(signal.shape, dtype=np.float32)
    imaginary = sigma * rng.standard_normal(signal.shape, dtype=np.float32)
    return np.sqrt(real * real + imaginary * imaginary)


def make_phantom_case(settings: PhantomSettings, index: int, label: int, folder: Path) -> None:
    """Write the files of one case into an existing folder; the same arguments give the same bytes."""
    rng = np.random.default_rng([settings.seed, index])
    anatomy = _draw_anatomy(rng, label, settings.gland_spread)
    view = settings.field_of_view
    fine_spacing = np.array([view / settings.size] * 2 + [settings.slice_distance])
    fine_shape = (settings.slices, settings.size, settings.size)
    affine, origin = _grid(fine_shape, fine_spacing, np.zeros(3))
    axes = _axes(fine_shape, fine_spacing, origin)
    tissue = _sample_tissue(anatomy, axes, view)
    gain, contrast = 600 * rng.uniform(0.7, 1.4), np.exp(rng.uniform(-CONTRAST_SPREAD, CONTRAST_SPREAD, 3))
    seen = np.clip(tissue.t2, 0.0, None) ** np.float32(contrast[0])
    t2 = gain * _rician(rng, seen * _uneven_gain(rng, axes, GAIN_SPREAD), 0.02)
    write_volume(folder / "ax_t2wi.nii.gz", t2, affine, np.int16)
    write_volume(folder / f"{MASK_NAME}.nii.gz", tissue.gland, affine, np.uint8)

    coarse_size = max(16, round(view * 0.9 / 2.0 * min(1.0, settings.size / 96)))
    coarse_spacing = np.array([view * 0.9 / coarse_size] * 2 + [settings.slice_distance])
    coarse_shape = (settings.slices, coarse_size, coarse_size)
    affine, origin = _grid(coarse_shape, coarse_spacing, rng.uniform(-1.5, 1.5, size=3) * [1, 1, 0])
    axes = _axes(coarse_shape, coarse_spacing, origin)
    tissue = _sample_tissue(anatomy, axes, view)
    # The coil's gain cancels in ADC; what the gradients' unevenness leaves there is half as strong.
    ideal = np.clip(tissue.adc * _uneven_gain(rng, axes, GAIN_SPREAD / 2), 0.0, None)
    adc = MIDDLING_ADC * (ideal / MIDDLING_ADC) ** np.float32(contrast[2])
    adc += 40 * rng.standard_normal(adc.shape, dtype=np.float32) * (tissue.adc > 50)
    write_volume(folder / "ax_adc.nii.gz", np.clip(adc, 0, 4000), affine, np.int16)
    coil, gain = _uneven_gain(rng, axes, GAIN_SPREAD), 500 * rng.uniform(0.7, 1.4)
    for b in B_VALUES:
        signal = tissue.diffusion * coil * np.exp(-np.float32(b * 1e-6 * contrast[1]) * ideal)
        write_volume(folder / f"ax_dwi_b{b}.nii.gz", gain * _rician(rng, signal, 0.01), affine, np.int16)


def phantom_label(seed: int, index: int) -> int:
    """Labels alternate, so that every list of cases is balanced."""
    return (index + seed) % 2


def write_phantoms(
    out: Path,
    cases: int,
    settings: PhantomSettings,
    workers: int = 1,
    progress: Callable[[], None] = lambda: None,
) -> list[str]:
    """Write cases that are not there yet, and `labels.csv` for all of them.

    A case that stands there with the same settings is left alone; one with other settings is an error. Each
    case is made in a hidden folder and renamed: a killed run leaves no half case.

    Returns:
        IDs of the cases that were written now.
    """
    out.mkdir(parents=True, exist_ok=True)
    missing = [index for index in range(cases) if not _is_there(out, settings, index)]
    written = []
    for name in parallel_map(partial(_write_one, out, settings), missing, workers):
        written.append(name)
        progress()
    names = [_case_name(index) for index in range(cases)]
    labels = [str(phantom_label(settings.seed, index)) for index in range(cases)]
    write_patient_table(out / "labels.csv", names, labels)
    return written


def _case_name(index: int) -> str:
    return f"phantom_{index + 1:04d}"


def _describe(settings: PhantomSettings, index: int) -> dict[str, object]:
    return {**asdict(settings), "index": index, "label": phantom_label(settings.seed, index), "version": 4}


def _write_one(out: Path, settings: PhantomSettings, index: int) -> str:
    name = _case_name(index)
    beside = out / f".making-{name}"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    make_phantom_case(settings, index, phantom_label(settings.seed, index), beside)
    (beside / "phantom.json").write_text(
        json.dumps(_describe(settings, index), indent=2) + "\n", encoding="utf-8"
    )
    beside.rename(out / name)
    return name


def _is_there(out: Path, settings: PhantomSettings, index: int) -> bool:
    folder = out / _case_name(index)
    if not folder.exists():
        return False
    path = folder / "phantom.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    # Settings that were not there yet had their defaults.
    if {**RETIRED, **asdict(PhantomSettings()), **found} != {**RETIRED, **_describe(settings, index)}:
        raise ProstateError(
            f"{folder} is there already and was made with other settings (or is no phantom). Choose another "
            "folder, or remove that one."
        )
    return True
