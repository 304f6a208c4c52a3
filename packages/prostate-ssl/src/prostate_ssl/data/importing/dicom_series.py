"""What a series is, judged by its tags, and which one of a study is taken."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from prostate_ssl.data.importing.b_values import last_b_value_in_text
from prostate_ssl.data.importing.dicom_headers import Frame, SeriesFacts, SeriesKey, names_exponential

T2, ADC, DWI, COMPUTED, OTHER = "t2", "adc", "dwi", "computed-b", "other"

LEAST_SLICES = 5
LEAST_ECHO_TIME = 60.0
LEAST_REPETITION_TIME = 1500.0
SMALL_FIELD_MM = 260.0
USUAL_ECHO_TIME = 100.0
LOCALIZER_THICKNESS_MM = 6.0
_LOCALIZER_WORDS = ("localizer", "localiser", "scout", "survey", "plan scan", "3-plane", "3 plane", "lokali")
_DWI_WORDS = ("dwi", "diff", "trace", "dwibs", "resolve", "b-value", "bvalue")
_COMPUTED_WORDS = ("calc", "cbval", "computed", "synth", "cdwi", "sbval", "extrapol")
_COMPUTED_NUMBER = re.compile(
    rf"(?:{'|'.join(_COMPUTED_WORDS)})[a-z]*[\s_=-]*(?:b[\s_=-]*(?:val(?:ue)?[\s_=-]*)?)?(\d{{2,5}})(?!\d|\s*mm)"
)
# Whole words: GE calls every fast spin echo FSE.
_FAT_SUPPRESSED = re.compile(r"(?<![a-z])(?:fs|fat\s?(?:sat|sup)?[a-z]*|stir|tirm|spair|spir)(?![a-z])")
_NO_T2_WORDS = ("t1", "dce", "dyn", "flash", "vibe", "dixon", "haste", "t2 map", "t2map", "mip", "mpr", "sub")
_MAP_TYPES = (
    "ADC",
    "EADC",
    "FA",
    "T2 MAP",
    "T1 MAP",
    "MAP",
    "MPR",
    "PROJECTION IMAGE",
    "SUBTRACTION",
    "MIN IP",
)


@dataclass(frozen=True)
class Series:
    """Frames that belong together."""

    key: SeriesKey
    facts: SeriesFacts
    frames: tuple[Frame, ...]


@dataclass(frozen=True)
class Judgement:
    """What a series was taken to be, and why.

    Attributes:
        kind: t2, adc, dwi, computed-b or other.
        reason: one clause; for `other`, why it is left.
    """

    series: Series
    kind: str
    reason: str


def normal_of(orientation: Sequence[float]) -> np.ndarray:
    """Unit normal of the slice plane, LPS."""
    return np.cross(np.asarray(orientation[:3]), np.asarray(orientation[3:]))


def plane_of(orientation: Sequence[float]) -> str:
    """axial, coronal or sagittal: the main plane that the slice lies nearest to."""
    return ("sagittal", "coronal", "axial")[int(np.abs(normal_of(orientation)).argmax())]


def places_of(series: Series) -> int:
    """How many places have a slice."""
    return len({_place(frame) for frame in series.frames})


def _place(frame: Frame) -> tuple[float, ...]:
    return tuple(round(coordinate, 2) for coordinate in frame.position)


def split_echoes(series: Series) -> list[Series]:
    """A series with several echoes at one place as a series an echo: their mean is no contrast at all.

    Diffusion stays whole, and so does a series whose echo time only varies from slice to slice.
    """
    echoes: dict[tuple[float, ...], set[int]] = defaultdict(set)
    for frame in series.frames:
        echoes[_place(frame)].add(round(frame.echo_time))
    if _is_diffusion(series) or all(len(times) == 1 for times in echoes.values()):
        return [series]
    return [
        replace(
            series,
            facts=replace(series.facts, echo_time=float(time)),
            frames=tuple(frame for frame in series.frames if round(frame.echo_time) == time),
        )
        for time in sorted(set().union(*echoes.values()))
    ]


def _is_diffusion(series: Series) -> bool:
    """By sequence, type or description; not by a b-value, since some scanners write b = 0 everywhere."""
    facts = series.facts
    planar = "EP" in facts.scanning_sequence or facts.sequence.startswith("*ep")
    return planar or "DIFFUSION" in facts.image_type or any(word in facts.description for word in _DWI_WORDS)


def judge(series: Series) -> Judgement:
    """Say what a series is, from modality, type, orientation, sequence, echo time and b-values."""
    facts, frames = series.facts, series.frames
    if facts.modality != "MR":
        return Judgement(series, OTHER, f"modality {facts.modality or 'unknown'}, not MR")
    if series.key.is_colour:
        return Judgement(series, OTHER, "a colour picture")
    if "LOCALIZER" in facts.image_type or any(word in facts.description for word in _LOCALIZER_WORDS):
        return Judgement(series, OTHER, "a localizer")
    planes = Counter(plane_of(frame.orientation) for frame in frames)
    if len(planes) > 1:
        return Judgement(series, OTHER, "slices of several orientations, as in a localizer")
    plane = next(iter(planes))
    if plane != "axial":
        return Judgement(series, OTHER, f"{plane}, not axial")
    places = places_of(series)
    if places < LEAST_SLICES:
        return Judgement(series, OTHER, f"only {places} slices")
    if series.key.is_adc:
        return Judgement(series, ADC, "an ADC map by type or description")
    if names_exponential(facts.image_type, facts.title):
        return Judgement(series, OTHER, "an exponential ADC map")
    return _judge_contrast(series)


def _judge_contrast(series: Series) -> Judgement:
    facts = series.facts
    values = sorted({frame.b_value for frame in series.frames if frame.b_value is not None})
    diffusion = _is_diffusion(series)
    computed = any(word in facts.title for word in _COMPUTED_WORDS) or any(
        kind.startswith(("CALC_B", "CBVAL", "SYNTH")) for kind in facts.image_type
    )
    # Several b-values in one series were acquired, whatever its name says will be computed of them.
    if computed and len(values) < 2 and (values or diffusion):
        b_value = computed_b_value(series)
        if b_value is None:
            return Judgement(series, OTHER, "a computed diffusion image that names no b-value")
        return Judgement(series, COMPUTED, f"computed at b {b_value:g}")
    if diffusion and values and max(values) > 0:
        listed = ", ".join(f"{value:g}" for value in values)
        return Judgement(series, DWI, f"diffusion, b = {listed}")
    if diffusion:
        return Judgement(series, OTHER, "echo-planar without a b-value")
    return _judge_t2(series)


def _judge_t2(series: Series) -> Judgement:
    facts = series.facts
    derived = next((kind for kind in facts.image_type if kind in _MAP_TYPES), None)
    if derived:
        return Judgement(series, OTHER, f"derived ({derived.lower()})")
    word = next((w for w in _NO_T2_WORDS if w in facts.description), None)
    if word and "t2" not in facts.description.replace(word, ""):
        return Judgement(series, OTHER, f"not a T2 image ('{word}' in its description)")
    gradient = "GR" in facts.scanning_sequence and "SE" not in facts.scanning_sequence
    if gradient:
        return Judgement(series, OTHER, "a gradient echo, not a T2 spin echo")
    if not facts.echo_time and "t2" in facts.description:
        return Judgement(series, T2, "axial, T2 by its description (no echo time)")
    if facts.echo_time < LEAST_ECHO_TIME or 0 < facts.repetition_time < LEAST_REPETITION_TIME:
        times = f"TE {facts.echo_time:g} ms, TR {facts.repetition_time:g} ms"
        return Judgement(series, OTHER, f"not T2-weighted ({times})")
    return Judgement(series, T2, f"axial spin echo, TE {facts.echo_time:g} ms")


def computed_b_value(series: Series) -> float | None:
    """The b-value that a computed image was computed for: in its tags, else in its title.

    The title may list the acquired b-values first: `ep2d_diff_b50_400_800_calcb1400`.
    """
    values = [frame.b_value for frame in series.frames if frame.b_value]
    if values:
        return max(values)
    after = _COMPUTED_NUMBER.search(series.facts.title)
    return float(after[1]) if after else last_b_value_in_text(series.facts.title)


def field_of_view(series: Series) -> float:
    """Longer side of the image in millimetres."""
    spacing = series.frames[0].spacing
    return max(series.key.rows * spacing[0], series.key.columns * spacing[1])


def rank_t2(series: Series) -> tuple[float, ...]:
    """Sort key of T2 candidates, best last.

    A small field of view, no fat suppression, fine pixels, most slices (the later one may have been broken
    off), later; of echoes of one series the usual echo time.
    """
    small = field_of_view(series) <= SMALL_FIELD_MM
    fat_suppressed = _FAT_SUPPRESSED.search(series.facts.description) is not None
    places = places_of(series)
    return (
        small,
        not fat_suppressed,
        places >= 10,
        -round(series.frames[0].spacing[0], 3),
        places,
        series.facts.number,
        -abs(series.facts.echo_time - USUAL_ECHO_TIME),
    )


def ranked(candidates: Sequence[Series], kind: str, near: Series | None) -> list[Series]:
    """Series of a kind, best first.

    Of T2: see `rank_t2`. Of the others: those in the T2 image's frame of reference first, then those with
    trace images, with most b-values, with most slices, then the later one (a repeat is made because the first
    went wrong).
    """

    def rank(series: Series) -> tuple[float, ...]:
        if kind == T2:
            return rank_t2(series)
        reference = near.facts.frame_of_reference if near else ""
        values = {frame.b_value for frame in series.frames}
        whole = sum(not frame.directional for frame in series.frames) > 0
        return (
            series.facts.frame_of_reference == reference,
            whole,
            len(values),
            places_of(series),
            series.facts.number,
        )

    return sorted(candidates, key=rank, reverse=True)


def choose(
    candidates: Sequence[Series], kind: str, near: Series | None
) -> tuple[Series, list[tuple[Series, str]]]:
    """The best series of a kind, and the others with the reason for leaving them."""
    best, *others = ranked(candidates, kind, near)
    reason = f"series {best.facts.number} was preferred for {kind}"
    return best, [(series, reason) for series in others]
