"""DICOM files as scanners write them, for tests: real files on disk, with the tags of each vendor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

PERSONAL = {
    "PatientName": "Musterfrau^Erika",
    "PatientID": "HOSP-4711",
    "PatientBirthDate": "19500203",
    "InstitutionName": "Klinikum Beispielstadt",
    "ReferringPhysicianName": "Doktor^Anton",
    "AccessionNumber": "ACC998877",
    "StudyDate": "20190405",
}
AXIAL = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]


def study(**personal: str) -> dict[str, str]:
    """Attributes that all series of one examination share."""
    return {**PERSONAL, "StudyInstanceUID": generate_uid(), "FrameOfReferenceUID": generate_uid(), **personal}


def _base(shared: dict[str, str], storage: str) -> Dataset:
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = storage
    image.SOPClassUID = storage
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    image.Modality = "MR"
    for name, value in shared.items():
        setattr(image, name, value)
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation = 15, 0
    return image


def vendor_b_value(image: Dataset, vendor: str, value: int) -> None:
    """Write a b-value the way a vendor does."""
    if vendor == "siemens":
        image.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0C, "IS", str(value))
    elif vendor == "siemens-bytes":
        image.add_new(0x0019100C, "OB", f"{value} ".encode() if len(str(value)) % 2 else str(value).encode())
    elif vendor == "ge":
        block = image.private_block(0x0043, "GEMS_PARM_01", create=True)
        block.add_new(0x39, "IS", [str(1000000000 + value), "8", "0", "0"])
    elif vendor == "philips":
        image.private_block(0x2001, "Philips Imaging DD 001", create=True).add_new(0x03, "FL", float(value))
    elif vendor == "united":
        image.private_block(0x0065, "Image Private Header", create=True).add_new(0x09, "FD", float(value))
    elif vendor == "sequence-name":
        image.SequenceName = f"*ep_b{value}t"
    else:
        image.DiffusionBValue = float(value)


def write_series(
    folder: Path,
    shared: dict[str, str],
    number: int,
    description: str,
    *,
    slices: int = 8,
    size: int = 32,
    pixel: float = 5.0,
    gap: float = 4.0,
    origin: tuple[float, float, float] = (-80.0, -80.0, 0.0),
    orientation: list[float] | None = None,
    b_value: int | None = None,
    vendor: str = "standard",
    echo: float = 100.0,
    repetition: float = 4000.0,
    sequence: str = "SE",
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "M"),
    skip: tuple[int, ...] = (),
    acquisition: int = 1,
    series_uid: str | None = None,
    value: int = 100,
    tags: dict[str, object] | None = None,
) -> str:
    """Write one series of single-frame files; slice k holds `value + 10 k` everywhere. Returns its uid.

    `tags` come last, over all else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    uid = series_uid or generate_uid()
    cosines = np.array(orientation or AXIAL)
    normal = np.cross(cosines[:3], cosines[3:])
    for k in range(slices):
        if k in skip:
            continue
        image = _base(shared, MRImageStorage)
        image.SeriesInstanceUID, image.SeriesNumber, image.SeriesDescription = uid, number, description
        image.ImageType, image.ScanningSequence = list(image_type), sequence
        image.EchoTime, image.RepetitionTime, image.AcquisitionNumber = echo, repetition, acquisition
        image.Rows = image.Columns = size
        image.PixelSpacing, image.SliceThickness = [pixel, pixel], gap
        image.ImageOrientationPatient = [float(c) for c in cosines]
        image.ImagePositionPatient = [float(c) for c in np.array(origin) + normal * gap * k]
        if b_value is not None:
            vendor_b_value(image, vendor, b_value)
        image.PixelData = np.full((size, size), value + 10 * k, dtype=np.uint16).tobytes()
        for keyword, content in (tags or {}).items():
            setattr(image, keyword, content)
        name = f"{number}_{b_value}_{acquisition}_{k:03d}_{uid[-6:]}.dcm"
        pydicom.dcmwrite(folder / name, image, enforce_file_format=True)
    return uid


def write_enhanced(
    folder: Path, shared: dict[str, str], number: int, b_values: tuple[int, ...], slices: int = 8
) -> None:
    """One Enhanced MR object that holds several b-values and an ADC map, as Philips writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    image = _base(shared, EnhancedMRImageStorage)
    image.SeriesInstanceUID, image.SeriesNumber, image.SeriesDescription = generate_uid(), number, "DWI multi"
    image.EchoPlanarPulseSequence, image.EchoPulseSequence = "YES", "SPIN"
    image.Rows = image.Columns = 16
    measures, plane, shared_groups = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [10.0, 10.0], 4.0
    plane.ImageOrientationPatient = AXIAL
    shared_groups.PixelMeasuresSequence, shared_groups.PlaneOrientationSequence = [measures], [plane]
    image.SharedFunctionalGroupsSequence = [shared_groups]
    frames, pixels = [], []
    for b_value in (*b_values, None):
        for k in range(slices):
            own, kind, position, values = Dataset(), Dataset(), Dataset(), Dataset()
            kind.FrameType = (
                ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]
                if b_value is None
                else ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"]
            )
            position.ImagePositionPatient = [-77.5, -77.5, 4.0 * k]
            values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 2.0, 1.0, "US"
            own.MRImageFrameTypeSequence, own.PlanePositionSequence = [kind], [position]
            own.PixelValueTransformationSequence = [values]
            if b_value is not None:
                diffusion = Dataset()
                diffusion.DiffusionBValue, diffusion.DiffusionDirectionality = float(b_value), "ISOTROPIC"
                own.MRDiffusionSequence = [diffusion]
            frames.append(own)
            pixels.append(np.full((16, 16), (b_value or 700) + k, dtype=np.uint16))
    image.PerFrameFunctionalGroupsSequence, image.NumberOfFrames = frames, len(frames)
    image.PixelData = np.stack(pixels).tobytes()
    pydicom.dcmwrite(folder / "enhanced.dcm", image, enforce_file_format=True)
