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

from prostate_ssl.cli.main import run
from prostate_ssl.data.importing.b_values import b_value_of
from prostate_ssl.data.importing.dicom import import_dicom
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
