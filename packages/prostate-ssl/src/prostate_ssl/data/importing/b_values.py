"""The b-value of a DICOM image: the standard attribute, then what the vendors wrote before it existed.

Sources: DICOM PS3.3 C.8.13.5.9 (MR Diffusion); Siemens, GE, Philips and United Imaging DICOM conformance
statements (private attributes).
"""

from __future__ import annotations

import re
import struct
from typing import Any

from pydicom.dataset import Dataset

# creator → (group, element within the block)
_PRIVATE = {
    "SIEMENS MR HEADER": (0x0019, 0x0C),
    "GEMS_PARM_01": (0x0043, 0x39),
    "Philips Imaging DD 001": (0x2001, 0x03),
    "Image Private Header": (0x0065, 0x09),
}
# Where the block usually lies, for files whose private creators were stripped.
_USUAL_TAGS = (
    (0x0019100C, "SIEMENS MR HEADER"),
    (0x00431039, "GEMS_PARM_01"),
    (0x20011003, "Philips Imaging DD 001"),
    (0x00651009, "Image Private Header"),
)
_SIEMENS_SEQUENCE = re.compile(r"ep_b(\d+)(?:[#t]|$)")
_IN_TEXT = re.compile(r"(?:^|[^a-z])b[\s_=-]*(?:val(?:ue)?[\s_=-]*)?(\d{2,5})(?!\d)", re.IGNORECASE)
_LIST_IN_TEXT = re.compile(_IN_TEXT.pattern + r"(?:[\s_,/-]+\d{2,5}(?![\da-z]))*", re.IGNORECASE)
HIGHEST = 20000.0


def _first_number(value: Any) -> float | None:
    """A number out of a text, of bytes that hold text, of a list's first member, or a plain number."""
    if isinstance(value, bytes):
        value = value.decode("ascii", "ignore")
    if isinstance(value, str):
        value = value.replace("\x00", " ").split("\\")[0].strip()
    elif hasattr(value, "__len__"):
        if not len(value):
            return None
        value = value[0]
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _binary(value: Any, layout: str) -> float | None:
    """A little-endian float where the value came as raw bytes (VR UN or OB)."""
    if isinstance(value, bytes) and len(value) == struct.calcsize(layout):
        return float(struct.unpack(layout, value)[0])
    return _first_number(value)


def _decode(creator: str, value: Any) -> float | None:
    if creator == "GEMS_PARM_01":
        number = _first_number(value)
        # GE adds 1e9 to mark the value as valid; the b-value is what remains below 100,000.
        return None if number is None else number % 100000
    if creator == "Philips Imaging DD 001":
        return _binary(value, "<f")
    if creator == "Image Private Header":
        return _binary(value, "<d")
    return _first_number(value)


def _plausible(value: float | None) -> float | None:
    return value if value is not None and 0.0 <= value <= HIGHEST else None


def private_b_value(image: Dataset) -> float | None:
    """The vendor's private b-value, or None."""
    for creator, (group, element) in _PRIVATE.items():
        try:
            value = image.private_block(group, creator)[element].value
        except KeyError:
            continue
        number = _plausible(_decode(creator, value))
        if number is not None:
            return number
    for tag, creator in _USUAL_TAGS:
        if tag in image:
            number = _plausible(_decode(creator, image[tag].value))
            if number is not None:
                return number
    return None


def b_value_of(image: Dataset) -> float | None:
    """b-value in s/mm² of a classic (single-frame) image, or None where nothing tells it."""
    if "DiffusionBValue" in image:
        standard = _plausible(_first_number(image.DiffusionBValue))
        if standard is not None:
            return standard
    private = private_b_value(image)
    if private is not None:
        return private
    match = _SIEMENS_SEQUENCE.search(str(image.get("SequenceName", "")))
    if match:
        return float(match[1])
    return b_value_in_text(str(image.get("ImageComments", "")))


def b_value_in_text(text: str) -> float | None:
    """`… b1400`, `b=800`, `b_1000` in a description; None without one."""
    match = _IN_TEXT.search(text)
    return _plausible(float(match[1])) if match else None


def last_b_value_in_text(text: str) -> float | None:
    """The last of several, as 800 of `b50_400_800`; None without one."""
    lists = [match[0] for match in _LIST_IN_TEXT.finditer(text)]
    return _plausible(float(re.findall(r"\d+", lists[-1])[-1])) if lists else None
