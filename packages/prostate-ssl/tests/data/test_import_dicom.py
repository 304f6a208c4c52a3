"""DICOM import on files written as each vendor writes them, and on the real ones beside the checkout."""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from prostate_ssl.cli.main import run
from prostate_ssl.data.importing.b_values import b_value_of
from prostate_ssl.data.importing.dicom import import_dicom
from prostate_ssl.data.importing.dicom_headers import names_adc
from prostate_ssl.data.importing.outcome import CaseOutcome
from prostate_ssl.data.layout import choose_sequence, discover_cases
from prostate_ssl.data.reading import read_case

sys.path.insert(0, str(Path(__file__).parent))
from dicom_writer import AXIAL, PERSONAL, study, write_enhanced, write_series

REAL = Path(__file__).parents[5] / "shared" / "data" / "prostatex"


def _prostate(source: Path, vendor: str = "standard", **t2: object) -> dict[str, str]:
    shared = study()
    write_series(source, shared, 4, "t2_tse_tra", **t2)  # type: ignore[arg-type]
    for b_value in (50, 800):
        write_series(
            source, shared, 6, "ep2d_diff_tra", b_value=b_value, vendor=vendor, sequence="EP", size=16, pixel=10.0,
            origin=(-77.5, -77.5, 0.0), echo=63, series_uid=shared["StudyInstanceUID"][:60] + ".6", value=b_value,
        )  # fmt: skip
    write_series(source, shared, 7, "ADC", b_value=800, vendor=vendor, sequence="EP", size=16, pixel=10.0,
                 origin=(-77.5, -77.5, 0.0), image_type=("DERIVED", "PRIMARY", "DIFFUSION", "ADC"), value=1200)  # fmt: skip
    return shared


def _stems(out: Path, case: str = "case_0001") -> set[str]:
    return {path.name.removesuffix(".nii.gz") for path in (out / case).glob("*.nii.gz")}


@pytest.mark.parametrize(
    "vendor", ["standard", "siemens", "siemens-bytes", "ge", "philips", "united", "sequence-name"]
)
def test_b_values_of_every_vendor(tmp_path: Path, vendor: str) -> None:
    _prostate(tmp_path / "in", vendor)
    result = import_dicom(tmp_path / "in", tmp_path / "out", workers=1)
    assert [outcome.status for outcome in result.outcomes] == ["imported"]
    assert _stems(tmp_path / "out") == {"ax_t2wi", "ax_adc", "ax_dwi_b50", "ax_dwi_b800"}
    volumes = read_case(discover_cases(tmp_path / "out")[0], ("ax_t2wi", "ax_adc", "ax_dwi"))
    assert volumes.modalities.shape == (3, 8, 32, 32) and volumes.present.all()
    assert volumes.modalities[0, 3].mean() == 130 and abs(volumes.modalities[2, 3, 16, 16] - 830) < 1


@pytest.mark.parametrize("keep", [False, True])
def test_patients_with_the_same_images_keep_their_names(tmp_path: Path, keep: bool) -> None:
    """In some data sets a patient was copied, with all UIDs, under another ID."""
    write_series(tmp_path / "in" / "A", study(PatientID="A"), 4, "t2_tse_tra")
    shutil.copytree(tmp_path / "in" / "A", tmp_path / "in" / "B")
    for path in filter(Path.is_file, (tmp_path / "in" / "B").rglob("*")):
        image = pydicom.dcmread(path)
        image.PatientID = "B"
        image.save_as(path)
    first, second = (import_dicom(tmp_path / "in", tmp_path / "out", 1, keep) for _ in range(2))
    assert len(first.source_ids) == 2 and second.source_ids == first.source_ids
    assert [outcome.status for outcome in second.outcomes] == ["unchanged"] * 2


def test_one_series_a_b_value(tmp_path: Path) -> None:
    """Every b-value is imported once, whatever the order of the series, a repeat instead of the first."""
    shared = study()
    write_series(tmp_path / "in", shared, 4, "t2_tse_tra")
    for number, b_value, value in ((5, 1400, 900), (6, 50, 300), (7, 400, 500), (8, 50, 310)):
        write_series(
            tmp_path / "in",
            shared,
            number,
            f"ep2d_diff_b{b_value}",
            b_value=b_value,
            sequence="EP",
            value=value,
        )
    for number, value in ((9, 700), (10, 710)):
        write_series(
            tmp_path / "in", shared, number, "diff_calc_b2000", b_value=2000, sequence="EP", value=value
        )
    outcome = import_dicom(tmp_path / "in", tmp_path / "out", workers=1).outcomes[0]
    assert _stems(tmp_path / "out") == {
        "ax_t2wi", "ax_dwi_b50", "ax_dwi_b400", "ax_dwi_b1400", "ax_dwi_b2000_calc",
    }  # fmt: skip
    assert {line.number for line in outcome.series if not line.taken} == {6, 9}
    for stem, value in (("ax_dwi_b50", 310), ("ax_dwi_b1400", 900), ("ax_dwi_b2000_calc", 710)):
        image = nibabel.load(tmp_path / "out" / "case_0001" / f"{stem}.nii.gz")
        assert np.asarray(image.dataobj)[0, 0, 0] == value
    assert choose_sequence(tmp_path / "out" / "case_0001", "ax_dwi").b_value == 1400


@pytest.mark.parametrize(
    ("group", "creator", "element", "vr", "value"),
    [
        (0x0019, "SIEMENS MR HEADER", 0x0C, "UN", b"800 "),
        (0x0019, "SIEMENS MR HEADER", 0x0C, "DS", "800"),
        (0x0043, "GEMS_PARM_01", 0x39, "UN", b"1000000800\\8\\0\\0 "),
        (0x0043, "GEMS_PARM_01", 0x39, "IS", ["800", "0", "0", "0"]),
        (0x2001, "Philips Imaging DD 001", 0x03, "UN", b"\x00\x00\x48\x44"),
        (0x0065, "Image Private Header", 0x09, "UN", b"\x00\x00\x00\x00\x00\x00\x89\x40"),
    ],
)
@pytest.mark.parametrize("taken_blocks", [0, 2])
def test_private_b_values_in_any_block_and_as_raw_bytes(
    tmp_path: Path, group: int, creator: str, element: int, vr: str, value: object, taken_blocks: int
) -> None:
    """A vendor's block may lie behind other creators' blocks; archives turn unknown VRs into raw bytes."""
    image = pydicom.Dataset()
    for number in range(taken_blocks):
        image.private_block(group, f"SOMEBODY {number}", create=True).add_new(element, "LO", "77")
    image.private_block(group, creator, create=True).add_new(element, vr, value)
    image.file_meta = pydicom.dataset.FileMetaDataset()
    image.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    pydicom.dcmwrite(tmp_path / "a.dcm", image, enforce_file_format=False)
    assert b_value_of(pydicom.dcmread(tmp_path / "a.dcm", force=True)) == 800


def test_files_without_preamble_or_echo_time_are_read(tmp_path: Path) -> None:
    """As old archives and anonymisers leave them."""
    write_series(tmp_path / "in", study(), 4, "t2_tse_tra", echo=0)
    for path in list((tmp_path / "in").iterdir()):
        image = pydicom.dcmread(path)
        del image.EchoTime
        del image.file_meta
        image.preamble = None
        image.save_as(path.with_suffix(""), implicit_vr=True, little_endian=True, enforce_file_format=False)
        path.unlink()
        assert path.with_suffix("").read_bytes()[:2] == b"\x08\x00"
    import_dicom(tmp_path / "in", tmp_path / "out", workers=1)
    assert _stems(tmp_path / "out") == {"ax_t2wi"}


def test_enhanced_multi_frame(tmp_path: Path) -> None:
    shared = study()
    write_series(tmp_path / "in", shared, 4, "t2_tse_tra")
    write_enhanced(tmp_path / "in", shared, 6, (0, 500, 1000))
    import_dicom(tmp_path / "in", tmp_path / "out", workers=1)
    assert _stems(tmp_path / "out") == {"ax_t2wi", "ax_adc", "ax_dwi_b0", "ax_dwi_b500", "ax_dwi_b1000"}
    volumes = read_case(discover_cases(tmp_path / "out")[0], ("ax_t2wi", "ax_adc", "ax_dwi"))
    # slope 2 and intercept 1 of each frame are applied
    assert (
        volumes.modalities[1, 2, 16, 16] == 2 * 702 + 1 and volumes.modalities[2, 2, 16, 16] == 2 * 1002 + 1
    )


def test_series_that_are_left_and_why(tmp_path: Path) -> None:
    shared = _prostate(tmp_path / "in")
    write_series(tmp_path / "in", shared, 1, "t2_localizer")
    write_series(tmp_path / "in", shared, 2, "three planes", orientation=AXIAL, slices=3)
    write_series(tmp_path / "in", shared, 3, "t2_tse_sag", orientation=[0, 1, 0, 0, 0, -1])
    write_series(tmp_path / "in", shared, 9, "t1_vibe_dce", echo=2, repetition=5, sequence="GR")
    write_series(tmp_path / "in", shared, 10, "ep2d_diff_CALC_BVAL", b_value=1400, sequence="EP")
    write_series(tmp_path / "in", shared, 11, "t2_tse_tra fs large", pixel=12.0)
    outcome = import_dicom(tmp_path / "in", tmp_path / "out", workers=1).outcomes[0]
    lines = {line.number: line for line in outcome.series}
    assert not any(lines[number].taken for number in (1, 2, 3, 9, 11))
    assert "localizer" in lines[1].reason and "3 slices" in lines[2].reason and "sagittal" in lines[3].reason
    assert lines[10].kind == "computed-b" and "ax_dwi_b1400_calc" in _stems(tmp_path / "out")
    assert lines[4].taken and "preferred" in lines[11].reason


def test_missing_and_duplicate_slices_and_repeated_acquisitions(tmp_path: Path) -> None:
    shared = _prostate(tmp_path / "in", slices=10, skip=(4,))
    for path in list((tmp_path / "in").glob("4_None*"))[:3]:
        (tmp_path / "in" / f"copy_{path.name}").write_bytes(path.read_bytes())
    outcome = import_dicom(tmp_path / "in", tmp_path / "out", workers=1).outcomes[0]
    notes = " ".join(next(line for line in outcome.series if line.kind == "t2").notes)
    assert "3 copies" in notes and "1 missing slices interpolated" in notes
    image = nibabel.load(tmp_path / "out" / "case_0001" / "ax_t2wi.nii.gz")
    assert image.shape[2] == 10 and np.asarray(image.dataobj)[0, 0, 4] == 140
    assert shared["PatientID"] == PERSONAL["PatientID"]


def test_the_last_complete_acquisition_is_taken(tmp_path: Path) -> None:
    shared = study()
    uid = write_series(tmp_path / "in", shared, 4, "t2_tse_tra", acquisition=1, value=100)
    write_series(tmp_path / "in", shared, 4, "t2_tse_tra", acquisition=2, value=500, series_uid=uid)
    write_series(
        tmp_path / "in", shared, 4, "t2_tse_tra", acquisition=3, value=900, series_uid=uid, skip=(7,)
    )
    import_dicom(tmp_path / "in", tmp_path / "out", workers=1)
    data = np.asarray(nibabel.load(tmp_path / "out" / "case_0001" / "ax_t2wi.nii.gz").dataobj)
    assert data[0, 0, 0] == 500


def test_too_many_missing_slices_are_refused_by_name(tmp_path: Path) -> None:
    _prostate(tmp_path / "in", slices=12, skip=(2, 4, 6, 8))
    outcome = import_dicom(tmp_path / "in", tmp_path / "out", workers=1).outcomes[0]
    assert outcome.status == "failed" and "series 4" in outcome.reason
    assert not (tmp_path / "out" / "case_0001").exists()


def test_oblique_slices_lie_where_the_header_says(tmp_path: Path) -> None:
    tilt = np.deg2rad(20)
    cosines = [1.0, 0.0, 0.0, 0.0, float(np.cos(tilt)), float(-np.sin(tilt))]
    shared = study()
    write_series(tmp_path / "in", shared, 4, "t2_tse_tra", orientation=cosines, origin=(-80, -70, 30))
    import_dicom(tmp_path / "in", tmp_path / "out", workers=1)
    affine = nibabel.load(tmp_path / "out" / "case_0001" / "ax_t2wi.nii.gz").affine
    assert np.allclose(affine @ [0, 0, 0, 1], [80, 70, 30, 1], atol=1e-3)
    assert np.allclose(affine[:3, 1], [0, -5 * np.cos(tilt), -5 * np.sin(tilt)], atol=1e-3)


def test_the_examination_with_everything_is_taken(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "a", study(StudyDate="20200101"), 4, "t2_tse_tra", value=7)
    _prostate(tmp_path / "in" / "b")
    result = import_dicom(tmp_path / "in", tmp_path / "out", workers=1)
    assert len(result.outcomes) == 1 and "ax_adc" in _stems(tmp_path / "out")
    assert any("another examination" in line.reason for line in result.outcomes[0].series)


def test_examinations_without_a_name_are_patients_of_their_own(tmp_path: Path) -> None:
    for folder in ("a", "b", "c"):
        shared = study(PatientID="", PatientName="" if folder != "c" else "anonymous")
        write_series(tmp_path / "in" / folder, shared, 4, "t2_tse_tra")
    result = import_dicom(tmp_path / "in", tmp_path / "out", workers=1)
    assert [outcome.status for outcome in result.outcomes] == ["imported"] * 3


def test_nothing_personal_reaches_an_output(tmp_path: Path) -> None:
    """Neither the image files (decompressed) nor the manifests hold a value of the header's personal tags."""
    shared = study()
    write_series(tmp_path / "in" / "Musterfrau", shared, 4, "t2 tra Musterfrau HOSP-4711")
    write_series(tmp_path / "in" / "Musterfrau", shared, 9, "Musterfrau scout")
    (tmp_path / "in" / "Musterfrau" / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"rubbish")
    assert (
        run(["import", "dicom", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--workers", "1"]) == 1
    )
    seen = b""
    for path in (tmp_path / "out").rglob("*"):
        seen += path.name.encode()
        if path.is_file():
            content = path.read_bytes()
            seen += gzip.decompress(content) + content if path.name.endswith(".gz") else content
    for value in (*PERSONAL.values(), "Musterfrau", "Erika", str(tmp_path), shared["StudyInstanceUID"]):
        assert value.encode() not in seen, value
    assert not any("sources" in path.name for path in (tmp_path / "out").rglob("*"))


def test_sources_are_written_on_request_only(tmp_path: Path) -> None:
    _prostate(tmp_path / "in")
    sources = tmp_path / "private" / "sources.json"
    command = ["import", "dicom", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert run([*command, "--sources", str(sources)]) == 0
    document = json.loads(sources.read_text())
    assert document["cases"]["case_0001"]["source_id"] == "HOSP-4711"
    assert len(document["cases"]["case_0001"]["files"]["ax_t2wi"]) == 8


def test_a_second_run_changes_nothing_and_a_new_patient_gets_the_next_name(tmp_path: Path) -> None:
    _prostate(tmp_path / "in" / "one")
    import_dicom(tmp_path / "in", tmp_path / "out", workers=1)
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (tmp_path / "out").rglob("*.nii.gz")}
    shared = study(PatientID="AAA-first-by-name", PatientName="A^A")
    write_series(tmp_path / "in" / "two", shared, 4, "t2_tse_tra", value=300)
    result = import_dicom(tmp_path / "in", tmp_path / "out", workers=1)
    assert {outcome.case_id: outcome.status for outcome in result.outcomes} == {
        "case_0001": "unchanged",
        "case_0002": "imported",
    }
    assert all((p.stat().st_mtime_ns, p.read_bytes()) == content for p, content in before.items())


def test_a_patient_whose_other_images_come_later_is_not_a_second_case(tmp_path: Path) -> None:
    shared = study()
    write_series(tmp_path / "in" / "a", shared, 4, "t2_tse_tra")
    import_dicom(tmp_path / "in", tmp_path / "out", workers=1)
    write_series(tmp_path / "in" / "b", shared, 5, "t2_tse_tra again", value=300)
    stranger = study(PatientID="another", StudyInstanceUID=shared["StudyInstanceUID"])
    write_series(tmp_path / "in" / "c", stranger, 4, "t2_tse_tra", value=200)
    result = import_dicom(tmp_path / "in", tmp_path / "out", workers=1)
    assert {o.case_id: o.status for o in result.outcomes} == {"case_0001": "failed", "case_0002": "imported"}
    reason = next(o.reason for o in result.outcomes if o.status == "failed")
    assert "was imported from some of these images" in reason and "remove it first" in reason


def _voxels(out: Path, stem: str) -> np.ndarray:
    return np.asarray(nibabel.load(out / "case_0001" / f"{stem}.nii.gz").dataobj)


def _imported(tmp_path: Path) -> CaseOutcome:
    outcome = import_dicom(tmp_path / "in", tmp_path / "out", workers=1).outcomes[0]
    assert outcome.status == "imported", outcome.reason
    return outcome


ADC_TYPE = ("DERIVED", "PRIMARY", "DIFFUSION", "ADC", "DIS2D")
TRACE_TYPE = ("DERIVED", "PRIMARY", "DIFFUSION", "TRACEW", "DIS2D")
PLAIN_TYPE = ("DERIVED", "SECONDARY")


@pytest.mark.parametrize(
    ("image_type", "title", "is_adc"),
    [
        (ADC_TYPE, "anything", True),
        (("DERIVED", "PRIMARY", "ADC_UNSPECIFIED"), "", True),
        (TRACE_TYPE, "ep2d_diff_adc", False),
        (("ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"), "dwi with adc", False),
        (("DERIVED", "PRIMARY", "EADC"), "adc", False),
        *(
            (PLAIN_TYPE, title, True)
            for title in ("adc", "adcmap", "adc_map", "ep2d_diff_mixadc", "dadc", "ax adc (10^-6 mm²/s)",
                          "apparent diffusion coefficient (mm2/s)")
        ),
        *((PLAIN_TYPE, title, False) for title in ("adcock", "eadc", "e-adc", "e_adc map", "exponential adc", "")),
    ],
)  # fmt: skip
def test_what_is_an_adc_map(image_type: tuple[str, ...], title: str, is_adc: bool) -> None:
    assert names_adc(image_type, title) is is_adc


@pytest.mark.parametrize(("trace", "protocol"), [("diff_ADC_TRACEW", "diff_ADC"), ("diff_tra", "diff_ADC")])
def test_the_protocols_name_makes_no_adc_map(tmp_path: Path, trace: str, protocol: str) -> None:
    shared, tags = study(), {"ProtocolName": protocol}
    write_series(tmp_path / "in", shared, 4, "t2_tse_tra")
    write_series(tmp_path / "in", shared, 6, trace, b_value=800, sequence="EP", value=300,
                 image_type=("ORIGINAL", "PRIMARY", "M") if trace == "diff_tra" else TRACE_TYPE, tags=tags)  # fmt: skip
    write_series(
        tmp_path / "in", shared, 7, "diff_ADC", sequence="EP", value=1200, image_type=PLAIN_TYPE, tags=tags
    )
    _imported(tmp_path)
    assert _stems(tmp_path / "out") == {"ax_t2wi", "ax_adc", "ax_dwi_b800"}
    assert _voxels(tmp_path / "out", "ax_adc")[0, 0, 0] == 1200


@pytest.mark.parametrize(
    ("title", "protocol", "tag", "expected"),
    [
        ("ep2d_diff_b50_400_800_CALC_BVAL", "ep2d_diff_tra", 1400, 1400),
        ("ep2d_diff_b50_400_800_calcb1400", "ep2d_diff_tra", None, 1400),
        ("ep2d_diff_b50_400_800_CALC_BVAL_2000", "ep2d_diff_tra", None, 2000),
        ("ep2d_diff_b50_b1400_calc", "ep2d_diff_tra", None, 1400),
        ("", "ep2d_diff_calculated b 1500 5mm", None, 1500),
        ("diff_calc", "ep2d_diff_b50_calcb1400", None, None),
    ],
)
def test_b_value_of_a_computed_image(
    tmp_path: Path, title: str, protocol: str, tag: int | None, expected: int | None
) -> None:
    shared = study()
    write_series(tmp_path / "in", shared, 4, "t2_tse_tra")
    write_series(
        tmp_path / "in", shared, 8, title, b_value=tag, sequence="EP", tags={"ProtocolName": protocol}
    )
    _imported(tmp_path)
    assert _stems(tmp_path / "out") == {"ax_t2wi"} | ({f"ax_dwi_b{expected}_calc"} if expected else set())


def test_several_b_values_in_one_series_were_acquired(tmp_path: Path) -> None:
    shared, uid = study(), generate_uid()
    write_series(tmp_path / "in", shared, 4, "t2_tse_tra")
    for value in (50, 400, 800):
        write_series(tmp_path / "in", shared, 6, "ep2d_diff_b50_400_800_calcb1400", b_value=value, sequence="EP",
                     value=value, series_uid=uid)  # fmt: skip
    _imported(tmp_path)
    assert _stems(tmp_path / "out") == {"ax_t2wi", "ax_dwi_b50", "ax_dwi_b400", "ax_dwi_b800"}
    assert _voxels(tmp_path / "out", "ax_dwi_b400")[0, 0, 0] == 400


def test_colour_maps_are_left(tmp_path: Path) -> None:
    """Of an ADC map in grey and in colour, even in one series, the grey one is taken."""
    shared, uid = study(), generate_uid()
    write_series(tmp_path / "in", shared, 4, "t2_tse_tra")
    colours = {
        "SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0,
        "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelData": bytes(32 * 32 * 3),
    }  # fmt: skip
    write_series(tmp_path / "in" / "a", shared, 7, "ADC", image_type=ADC_TYPE, series_uid=uid, tags=colours)
    write_series(tmp_path / "in" / "b", shared, 7, "ADC", image_type=ADC_TYPE, series_uid=uid, value=1200)
    outcome = _imported(tmp_path)
    assert {(line.kind, line.taken, line.reason) for line in outcome.series if line.number == 7} == {
        ("other", False, "a colour picture"), ("adc", True, "an ADC map by type or description"),
    }  # fmt: skip
    assert _voxels(tmp_path / "out", "ax_adc")[0, 0, 0] == 1200


@pytest.mark.parametrize("uid", ["", "1.2.3"])
def test_images_with_a_blank_or_common_uid_are_no_copies(tmp_path: Path, uid: str) -> None:
    write_series(tmp_path / "in", study(), 4, "t2_tse_tra", tags={"SOPInstanceUID": uid})
    outcome = _imported(tmp_path)
    assert _voxels(tmp_path / "out", "ax_t2wi").shape == (32, 32, 8)
    assert not outcome.series[0].notes


@pytest.mark.parametrize("kind", ["cut", "raw-data"])
def test_a_file_cut_off_in_its_header_is_named(tmp_path: Path, kind: str) -> None:
    """Raw data, which have no rows either and are MR by modality, are no damage."""
    write_series(tmp_path / "in", study(), 4, "t2_tse_tra", slices=9)
    victim = sorted((tmp_path / "in").iterdir())[-1]
    image = pydicom.dcmread(victim)
    if kind == "raw-data":
        image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = pydicom.uid.RawDataStorage
        del image.Rows
        image.save_as(victim)
    else:
        whole = victim.read_bytes()
        victim.write_bytes(whole[: whole.index(b"\x20\x00\x0e\x00UI")])  # before SeriesInstanceUID
    result = import_dicom(tmp_path / "in", tmp_path / "out", workers=1)
    expected = [(victim, "its header ends early")] if kind == "cut" else []
    assert [(found.file, found.problem) for found in result.unreadable] == expected
    assert _voxels(tmp_path / "out", "ax_t2wi").shape == (32, 32, 8)


@pytest.mark.parametrize(
    ("low", "limit", "signed"),
    [(-32768, None, 1), (-32768, -32700, 1), (-32700, -32768, 1), (65000, None, 0)],
)
def test_padding_becomes_zero(tmp_path: Path, low: int, limit: int | None, signed: int) -> None:
    stored = np.full((32, 32), 700, dtype=np.int16 if signed else np.uint16)
    stored[:4], stored[4] = low, limit or low
    tags: dict[str, object] = {
        "PixelRepresentation": signed, "RescaleSlope": 2, "RescaleIntercept": 10,
        "PixelData": stored.tobytes(), "PixelPaddingValue": low,
    }  # fmt: skip
    if limit:
        tags["PixelPaddingRangeLimit"] = limit
    write_series(tmp_path / "in", study(), 4, "t2_tse_tra", tags=tags)
    outcome = _imported(tmp_path)
    voxels = _voxels(tmp_path / "out", "ax_t2wi")
    assert set(np.unique(voxels)) == {0, 1410} and (voxels == 0).sum() == 5 * 32 * 8
    assert "padding around the image set to 0" in outcome.series[0].notes


@pytest.mark.parametrize(
    ("plain", "suppressed"),
    [
        ("AX T2 FSE", "AX T2 FSE FS"),
        ("t2_tse", "t2_tse_fs"),
        ("T2 FSE", "T2 FATSAT"),
        ("T2 offset", "T2 SPAIR"),
    ],
)
@pytest.mark.parametrize("suppressed_first", [False, True])
def test_fat_suppression_is_a_word(
    tmp_path: Path, plain: str, suppressed: str, suppressed_first: bool
) -> None:
    shared = study()
    for number, title in enumerate(
        sorted((plain, suppressed), key=lambda t: (t == plain) is suppressed_first)
    ):
        write_series(tmp_path / "in", shared, number, title, value=100 if title == plain else 500)
    _imported(tmp_path)
    assert _voxels(tmp_path / "out", "ax_t2wi")[0, 0, 0] == 100


@pytest.mark.parametrize(("repeated", "expected"), [(11, 100), (19, 500)])
def test_a_t2_repeat_counts_only_if_it_is_complete(tmp_path: Path, repeated: int, expected: int) -> None:
    shared = study()
    write_series(tmp_path / "in", shared, 4, "t2_tse_tra", slices=19, value=100)
    write_series(tmp_path / "in", shared, 9, "t2_tse_tra", slices=repeated, value=500)
    _imported(tmp_path)
    voxels = _voxels(tmp_path / "out", "ax_t2wi")
    assert voxels.shape[2] == 19 and voxels[0, 0, 0] == expected


@pytest.mark.parametrize("folders", ["ab", "ba"])
def test_the_long_echo_of_two_is_the_t2_image(tmp_path: Path, folders: str) -> None:
    """Whichever file is read first."""
    shared, uid = study(), generate_uid()
    for folder, echo, value in zip(folders, (20, 104), (900, 100), strict=True):
        write_series(tmp_path / "in" / folder, shared, 4, "pd+t2_tse", echo=echo, value=value, series_uid=uid)
    outcome = _imported(tmp_path)
    assert _voxels(tmp_path / "out", "ax_t2wi")[0, 0, 0] == 100
    assert sorted((line.taken, line.slices) for line in outcome.series) == [(False, 8), (True, 8)]


def test_an_echo_time_that_varies_splits_nothing_else(tmp_path: Path) -> None:
    """Neither diffusion, nor a T2 series with one echo a place."""
    shared, t2, dwi = study(), generate_uid(), generate_uid()
    write_series(tmp_path / "in" / "a", shared, 4, "t2_tse_tra", echo=104.4, skip=(5, 6, 7), series_uid=t2)
    write_series(
        tmp_path / "in" / "b", shared, 4, "t2_tse_tra", echo=104.6, skip=(0, 1, 2, 3, 4), series_uid=t2
    )
    for b_value, echo in ((50, 60), (800, 80)):
        write_series(tmp_path / "in", shared, 6, "ep2d_diff", b_value=b_value, echo=echo, sequence="EP",
                     series_uid=dwi)  # fmt: skip
    outcome = _imported(tmp_path)
    assert [(line.number, line.slices) for line in outcome.series] == [(4, 8), (6, 8)]
    assert _stems(tmp_path / "out") == {"ax_t2wi", "ax_dwi_b50", "ax_dwi_b800"}


@pytest.mark.parametrize("runs", [1, 2])
def test_a_series_of_another_examination_keeps_its_own_label(tmp_path: Path, runs: int) -> None:
    write_series(tmp_path / "in" / "new", study(StudyDate="20200101"), 4, "t2_tse_tra")
    write_series(tmp_path / "in" / "old", study(StudyDate="20100101"), 4, "old_t1_vibe")
    for _ in range(runs):
        outcome = import_dicom(tmp_path / "in", tmp_path / "out", workers=1).outcomes[0]
    assert {(line.taken, line.label) for line in outcome.series} == {
        (True, "t2_tse_tra"),
        (False, "old_t1_vibe"),
    }
    assert "vibe" not in json.dumps(outcome.manifest())


@pytest.mark.parametrize("workers", [1, 2])
def test_several_processes_give_the_same_files(tmp_path: Path, workers: int) -> None:
    for patient in ("P1", "P2"):
        write_series(tmp_path / "in" / patient, study(PatientID=patient), 4, "t2_tse_tra")
    result = import_dicom(tmp_path / "in", tmp_path / "out", workers=workers)
    assert [outcome.case_id for outcome in result.outcomes] == ["case_0001", "case_0002"]


@pytest.mark.parametrize("kind", ["empty", "missing", "no-dicom", "damaged", "cut-pixels"])
def test_bad_sources_are_one_paragraph_and_leave_nothing(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    if kind != "missing":
        source.mkdir()
    if kind == "no-dicom":
        (source / "readme.txt").write_text("hello")
    if kind == "damaged":
        (source / "a.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\1\2\3")
    if kind == "cut-pixels":
        _prostate(source)
        victim = next(source.glob("4_None*"))
        victim.write_bytes(victim.read_bytes()[:-500])
    assert run(["import", "dicom", str(source), "--out", str(out), "--workers", "1"]) == 1
    error = capsys.readouterr().err
    assert "error:" in error and "Traceback" not in error
    assert not list(out.glob("case_*")) if out.exists() else True
    if kind == "cut-pixels":
        assert victim.name in error


@pytest.mark.skipif(not REAL.is_dir(), reason="the PROSTATEx series are not beside this checkout")
def test_real_prostatex(tmp_path: Path) -> None:
    assert run(["import", "dicom", str(REAL), "--out", str(tmp_path / "data")]) == 0
    report = json.loads((tmp_path / "data" / "import_report.json").read_text())
    assert report["counts"] == {"imported": 2, "unchanged": 0, "failed": 0}
    taken = {
        (case["case_id"], line["number"])
        for case in report["cases"]
        for line in case["series"]
        if line["taken"]
    }
    assert taken == {("case_0001", n) for n in (4, 6, 7, 8)} | {("case_0002", n) for n in (7, 8, 9, 10)}
    for case in discover_cases(tmp_path / "data"):
        assert _stems(tmp_path / "data", case.case_id) == {
            "ax_t2wi", "ax_adc", "ax_dwi_b50", "ax_dwi_b400", "ax_dwi_b800", "ax_dwi_b1000_calc",
        }  # fmt: skip
        shapes = {nibabel.load(path).shape for path in case.folder.glob("*.nii.gz")}
        assert shapes == {(384, 384, 19)}
    assert run(["check", str(tmp_path / "data")]) == 0
    # The T2 voxels are the pixels of the files, slice by slice from the feet up.
    folder = next((REAL / "ProstateX-0001").rglob("*t2tsetra*"))
    slices = sorted(
        (pydicom.dcmread(path) for path in folder.iterdir()), key=lambda s: float(s.ImagePositionPatient[2])
    )
    data = np.asarray(nibabel.load(tmp_path / "data" / "case_0002" / "ax_t2wi.nii.gz").dataobj)
    assert np.array_equal(data[:, :, 5].T, slices[5].pixel_array)
