"""Each transform against a trusted implementation: torch's interpolate, MONAI, scipy, and plain formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.transforms.intensity.array import (
    AdjustContrast,
    RandHistogramShift,
    ScaleIntensityRangePercentiles,
)
from scipy import ndimage
from scipy.interpolate import BSpline, splrep

from prostate_ssl.augment.blur import blur_matrices, gaussian_blur
from prostate_ssl.augment.boxes import ASPECT, foreground_boxes, random_boxes, random_gland_pixel, window_room
from prostate_ssl.augment.convolution import LAYERS, apply_network, random_convolution, random_kernels
from prostate_ssl.augment.draws import draw_crops
from prostate_ssl.augment.intensity import (
    brightness,
    bspline,
    color_jitter,
    contrast,
    gamma,
    histogram_points,
    histogram_shift,
    piecewise_curve,
    spline_curve,
)
from prostate_ssl.augment.pipeline import normalise
from prostate_ssl.augment.planes import Planes
from prostate_ssl.augment.published import slices_as_published
from prostate_ssl.augment.resize import bicubic_weights, resize_windows
from prostate_ssl.data.preparing import scale_to_unit


def _images(count: int = 6, modalities: int = 2, side: int = 32) -> torch.Tensor:
    images = torch.rand(count, modalities, side, side, generator=torch.Generator().manual_seed(3))
    images[:, :, :4] = 0.0
    return images


def _draws(count: int = 6):
    return draw_crops(torch.arange(count) * 7919 + 13)


@settings(max_examples=40, deadline=None)
@given(
    top=st.integers(0, 30),
    left=st.integers(0, 30),
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    size=st.sampled_from([14, 28, 56, 112]),
    flip=st.booleans(),
)
def test_resize_matches_interpolate(
    top: int, left: int, height: int, width: int, size: int, flip: bool
) -> None:
    """Antialiased bicubic, tolerance 2e-5 on values in 0–1 (float32 rounding)."""
    plane = torch.rand(1, 3, 90, 90, generator=torch.Generator().manual_seed(height * 61 + width))
    box = torch.tensor([[top, left, height, width]])
    ours = resize_windows(plane, torch.zeros(1, dtype=torch.int64), box, torch.tensor([flip]), (60, 60), size)
    window = plane[:, :, top : top + height, left : left + width]
    theirs = torch.nn.functional.interpolate(window, (size, size), mode="bicubic", antialias=True)
    theirs = theirs.flip(-1) if flip else theirs
    assert (ours - theirs).abs().max() < 2e-5


def test_resize_is_the_same_by_one_product_for_all() -> None:
    """The GPU's path (one padded batched product) against the CPU's (window by window), on the CPU."""
    planes = torch.rand(3, 2, 50, 64)
    boxes = torch.tensor([[0, 0, 50, 64], [3, 9, 20, 31], [40, 60, 10, 4]])
    flip = torch.tensor([False, True, False])
    ours = resize_windows(planes, torch.arange(3), boxes, flip, (50, 64), 28)
    down, across = bicubic_weights(boxes[:, 2], 50, 28), bicubic_weights(boxes[:, 3], 64, 28)
    across = torch.where(flip[:, None, None], across.flip(1), across)
    rows = (boxes[:, :1] + torch.arange(50)).clamp(max=49)
    columns = (boxes[:, 1:2] + torch.arange(64)).clamp(max=63)
    windows = planes[torch.arange(3)[:, None, None, None], torch.arange(2)[:, None, None], rows[:, None, :, None],
                     columns[:, None, None, :]]  # fmt: skip
    assert torch.allclose(down[:, None] @ windows @ across[:, None].transpose(2, 3), ours, atol=1e-5)


def test_blur_matches_scipy_and_zero_sigma_is_the_identity() -> None:
    """Nine taps, reflected borders; tolerance 1e-5."""
    images, sigma = _images(), torch.tensor([0.0, 0.1, 0.4, 0.7, 1.0, 2.0])
    ours = gaussian_blur(images, sigma)
    for row, value in enumerate(sigma.tolist()):
        taps = np.arange(-4, 5)
        kernel = np.exp(-0.5 * (taps / max(value, 1e-3)) ** 2)
        kernel /= kernel.sum()
        expected = images[row].numpy().astype(np.float64)
        for axis in (1, 2):
            expected = ndimage.correlate1d(expected, kernel, axis=axis, mode="mirror")
        assert np.abs(ours[row].numpy() - expected).max() < 1e-5
    assert torch.equal(blur_matrices(torch.zeros(1), 16)[0], torch.eye(16))


def test_gamma_matches_monai() -> None:
    """AdjustContrast, per modality; tolerance 1e-5."""
    images, exponents = _images(), torch.tensor([0.75, 0.9, 1.0, 1.2, 1.5, 2.0])
    ours = gamma(images, exponents)
    for row in range(6):
        for channel in range(2):
            theirs = AdjustContrast(gamma=float(exponents[row]))(images[row, channel][None])
            assert (ours[row, channel] - torch.as_tensor(theirs)[0]).abs().max() < 1e-5


def test_histogram_curve_matches_monai() -> None:
    """RandHistogramShift with the same control points; tolerance 1e-5."""
    images = _images()
    count, values = histogram_points(_draws())
    ours = piecewise_curve(images, count, values)
    assert set(count.tolist()) <= set(range(3, 11))
    for row in range(6):
        points = int(count[row])
        shift = RandHistogramShift(num_control_points=points, prob=1.0)
        shift.randomize()
        shift.reference_control_points = torch.linspace(0, 1, points)
        shift.floating_control_points = values[row, :points]
        for channel in range(2):
            theirs = torch.as_tensor(shift(images[row, channel][None], randomize=False))[0]
            assert (ours[row, channel] - theirs).abs().max() < 1e-5


def test_histogram_points_rise_from_0_to_1() -> None:
    count, values = histogram_points(draw_crops(torch.arange(500)))
    assert (values[:, 0] == 0).all() and (values.diff(dim=1) >= 0).all()
    assert (values.gather(1, count[:, None] - 1) == 1).all()
    assert count.min() == 3 and count.max() == 10


def test_spline_matches_scipy() -> None:
    """The interpolating cubic spline of splrep; tolerance 1e-5."""
    images, values = _images(), torch.rand(6, 5, generator=torch.Generator().manual_seed(1))
    ours = spline_curve(images, values)
    for row in range(6):
        expected = BSpline(*splrep(np.linspace(0, 1, 5), values[row].double().numpy()))(
            images[row].double().numpy()
        )
        assert np.abs(ours[row].numpy() - expected).max() < 1e-5


def test_percentiles_match_monai() -> None:
    """ScaleIntensityRangePercentiles(1, 99, 0, 1, clip) of a volume; tolerance 1e-5."""
    volume = np.random.default_rng(0).gamma(2.0, 100.0, size=(5, 40, 40)).astype(np.float32)
    theirs = ScaleIntensityRangePercentiles(1, 99, 0, 1, clip=True)(torch.from_numpy(volume))
    assert np.abs(scale_to_unit(volume, 1, 99) - np.asarray(theirs)).max() < 1e-5


def test_brightness_and_contrast_follow_their_formulas() -> None:
    """torchvision's blend of a grey image with black, or with its mean, clamped to 0–1."""
    images, factor = _images(), torch.linspace(0.6, 1.4, 6)
    assert torch.equal(brightness(images, factor), (images * factor.view(-1, 1, 1, 1)).clamp(0, 1))
    for row in range(6):
        for channel in range(2):
            image, f = images[row, channel], float(factor[row])
            expected = (f * image + (1 - f) * image.mean()).clamp(0, 1)
            assert torch.allclose(contrast(images, factor)[row, channel], expected, atol=1e-6)


def test_random_network_matches_separate_convolutions() -> None:
    """GIN by torch's own conv2d, crop by crop, in double precision; tolerance 1e-4 of the output's range."""
    images, kernels = _images(4, 3, 24), random_kernels(_draws(4))
    ours = apply_network(images, kernels)
    for row in range(4):
        x = torch.nn.functional.pad((images[row][:, None].double() - 0.5) * 2, [LAYERS] * 4, mode="replicate")
        for layer in range(LAYERS):
            x = torch.nn.functional.conv2d(x, kernels[layer][row].double())
            x = torch.nn.functional.leaky_relu(x, 0.01) if layer + 1 < LAYERS else x
        assert (ours[row] - x[:, 0]).abs().max() < 1e-4 * x.abs().max()


def test_random_kernels_are_standard_normal_and_half_of_the_layers_pointwise() -> None:
    kernels = random_kernels(draw_crops(torch.arange(400)))
    centres = torch.cat([layer[..., 1, 1].flatten() for layer in kernels])
    assert abs(float(centres.mean())) < 0.02 and abs(float(centres.std()) - 1.0) < 0.02
    pointwise = [(layer[..., 0, 0].flatten(1) == 0).all(dim=1).float().mean() for layer in kernels]
    assert all(0.4 < float(share) < 0.6 for share in pointwise)


def test_random_convolution_keeps_air_and_range_and_ignores_absent_modalities() -> None:
    images = _images(4, 3)
    present = torch.tensor([[True, True, True], [True, False, True], [True, True, True], [False, True, True]])
    images = images * present[:, :, None, None]
    changed = random_convolution(images, _draws(4), present)
    assert (changed[images == 0] == 0).all()
    assert changed.min() >= 0 and changed.max() <= 1 + 1e-6
    assert (changed - images).abs().max() > 0.05


@pytest.mark.parametrize("change", [color_jitter, bspline, histogram_shift])
def test_intensity_changes_keep_air_and_differ_between_crops(change) -> None:
    images = _images(1, 2).expand(40, -1, -1, -1).clone()
    changed = change(images, _draws(40))
    assert (changed[images == 0] == 0).all()
    assert len({round(float(row.sum()), 3) for row in changed}) > 20


def test_normalise_leaves_zeros() -> None:
    images = _images()
    expected = torch.where(images == 0, 0.0, (images - 0.45) / 0.22)
    assert torch.equal(normalise(images), expected)


def test_gland_pixels_are_drawn_evenly() -> None:
    gland = torch.zeros(2, 20, 30, dtype=torch.bool)
    gland[0, 3:5, 7] = True
    gland[0, 10, 20:22] = True
    extent = torch.tensor([[20, 30], [16, 24]])
    row, column = random_gland_pixel(
        gland, extent, torch.rand(4000, 2, generator=torch.Generator().manual_seed(0))
    )
    seen = {(int(r), int(c)): 0 for r, c in zip(row[:, 0], column[:, 0], strict=True)}
    assert set(seen) == {(3, 7), (4, 7), (10, 20), (10, 21)}
    share = float(((row[:, 0] == 10) & (column[:, 0] == 21)).float().mean())
    assert abs(share - 0.25) < 0.03
    assert (row[:, 1] == 8).all() and (column[:, 1] == 12).all()


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    low=st.floats(0.05, 0.9),
    span=st.floats(0.0, 0.5),
    foreground=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_boxes_lie_inside_and_fit_the_room(
    height: int, width: int, low: float, span: float, foreground: bool, seed: int
) -> None:
    scale = (low, min(1.0, low + span))
    extent = torch.tensor([[height, width]])
    draws = torch.rand(64, 1, 22, generator=torch.Generator().manual_seed(seed))
    if foreground:
        centre = (torch.full((64, 1), float(height - 1)), torch.zeros(64, 1))
        boxes = foreground_boxes(centre, extent, draws, scale)
    else:
        boxes = random_boxes(extent, draws, scale)
    top, left, h, w = boxes.flatten(0, 1).unbind(dim=1)
    room = window_room((height, width), scale, foreground)
    assert (top >= 0).all() and (left >= 0).all() and (h >= 1).all() and (w >= 1).all()
    assert (top + h <= height).all() and (left + w <= width).all()
    assert h.max() <= room[0] and w.max() <= room[1]


def test_random_boxes_have_the_asked_area_and_aspect() -> None:
    draws = torch.rand(2000, 1, 22, generator=torch.Generator().manual_seed(5))
    boxes = random_boxes(torch.tensor([[300, 300]]), draws, (0.2, 0.5)).flatten(0, 1).float()
    area, aspect = boxes[:, 2] * boxes[:, 3] / 90000, boxes[:, 3] / boxes[:, 2]
    assert area.min() > 0.19 and area.max() < 0.51 and abs(float(area.mean()) - 0.35) < 0.02
    assert aspect.min() > ASPECT[0] - 0.02 and aspect.max() < ASPECT[1] + 0.02
    assert abs(float(aspect.log().mean())) < 0.02 and math.isfinite(float(aspect.sum()))


def test_published_order_matches_numpy_and_interpolate() -> None:
    """Percentiles of each slice, bilinear resize; tolerance 1e-5. The mask stays 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.zeros(2, 3, 40, 50)
    extent = torch.tensor([[40, 50], [24, 31]])
    for row, (high, wide) in enumerate(extent.tolist()):
        pixels[row, :2, :high, :wide] = torch.rand(2, high, wide, generator=generator)
        pixels[row, 2, 5:15, 6:20] = 1.0
    keys, targets = torch.zeros(2, dtype=torch.int64), torch.zeros(2, 2, dtype=torch.int64)
    found = slices_as_published(Planes(pixels, extent, torch.ones(2, 2, dtype=torch.bool), keys, targets), 28)
    for row, (high, wide) in enumerate(extent.tolist()):
        for channel in range(2):
            image = pixels[row, channel, :high, :wide].numpy()
            low, top = np.percentile(image, [1, 99])
            clipped = torch.from_numpy(np.clip((image - low) / (top - low), 0, 1))[None, None].float()
            expected = torch.nn.functional.interpolate(clipped, (28, 28), mode="bilinear")[0, 0]
            assert (found.pixels[row, channel] - expected).abs().max() < 1e-5
        expected = torch.nn.functional.interpolate(
            pixels[row, 2:, :high, :wide][None], (28, 28), mode="nearest"
        )
        assert torch.equal(found.pixels[row, 2], expected[0, 0])
