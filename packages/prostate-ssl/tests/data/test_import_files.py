"""PI-CAI .mha, BIDS and loose NIfTI."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from prostate_ssl.cli.main import run
from prostate_ssl.data.importing.outcome import hash_of
from prostate_ssl.data.layout import discover_cases
from prostate_ssl.data.reading import read_case

AFFINE = np.diag([-5.0, -5.0, 4.0, 1.0])


def _mha(
    path: Path, value: float, size: int = 32, spacing: float = 5.0, direction: tuple[float, ...] | None = None
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.full((6, size, size), value, dtype=np.float32)
    data[0, 0, 0] = -1  # a constant image would be left out of training
    image = sitk.GetImageFromArray(data)
    image.SetSpacing((spacing, spacing, 4.0))
    image.SetOrigin((-80.0, -80.0, 0.0))
    if direction:
        image.SetDirection(direction)
    image.SetMetaData("PatientName", "Musterfrau^Erika")
    sitk.WriteImage(image, str(path))


def _nifti(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(data.astype(np.float32), affine), path)


def _stems(out: Path, case: str = "case_0001") -> set[str]:
    return {path.name.removesuffix(".nii.gz") for path in (out / case).glob("*.nii.gz")}


def test_picai(tmp_path: Path) -> None:
    folder = tmp_path / "in" / "10001"
    for kind, value in (("t2w", 1), ("adc", 2), ("hbv", 3), ("sag", 4)):
        _mha(folder / f"10001_1000001_{kind}.mha", value, *((16, 10.0) if kind in ("adc", "hbv") else ()))
    _mha(folder / "10001_1000000_t2w.mha", 9)
    assert run(["import", "mha", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
    assert _stems(tmp_path / "out") == {"ax_t2wi", "ax_adc", "ax_dwi"}
    volumes = read_case(discover_cases(tmp_path / "out")[0], ("ax_t2wi", "ax_adc", "ax_dwi"))
    assert volumes.present.all() and volumes.modalities[:, 3, 16, 16].tolist() == [1, 2, 3]
    assert b"Musterfrau" not in b"".join(p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file())


@pytest.mark.parametrize("missing", ["hbv", "adc", "gland"])
def test_the_most_complete_picai_study_is_taken(tmp_path: Path, missing: str) -> None:
    kinds = {"t2w", "adc", "hbv"}
    for study, value in ((1000000, 5), (1000001, 6)):
        for kind in kinds - ({missing} if study == 1000001 else set()):
            _mha(tmp_path / "in" / "10001" / f"10001_{study}_{kind}.mha", value)
    gland = np.zeros((32, 32, 6))
    gland[8:20, 8:20] = 1
    for study in ("10001_1000000", "10001_1000001")[: 1 if missing == "gland" else 2]:
        _nifti(tmp_path / "in" / "whole_gland" / f"{study}.nii.gz", gland)
    assert run(["import", "mha", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
    assert _stems(tmp_path / "out") == {"ax_t2wi", "ax_adc", "ax_dwi", "roi_Prostate"}
    assert nibabel.load(tmp_path / "out" / "case_0001" / "ax_t2wi.nii.gz").get_fdata().max() == 5


def test_bids(tmp_path: Path) -> None:
    subject = tmp_path / "in" / "sub-01" / "ses-2"
    t2 = np.random.default_rng(0).random((32, 32, 6))
    _nifti(subject / "anat" / "sub-01_ses-2_acq-ax_T2w.nii.gz", t2)
    _nifti(subject / "anat" / "sub-01_ses-2_acq-sag_T2w.nii.gz", t2)
    _nifti(tmp_path / "in" / "sub-01" / "ses-1" / "anat" / "sub-01_ses-1_T2w.nii.gz", t2 * 0)
    dwi = np.stack([np.full((32, 32, 6), value) for value in (10.0, 20.0, 30.0, 40.0)], axis=-1)
    dwi[0, 0, 0] = 0
    _nifti(subject / "dwi" / "sub-01_ses-2_dwi.nii.gz", dwi)
    (subject / "dwi" / "sub-01_ses-2_dwi.bval").write_text("0 800 800 1400\n")
    _nifti(
        tmp_path
        / "in"
        / "derivatives"
        / "x"
        / "sub-01"
        / "ses-2"
        / "anat"
        / "sub-01_ses-2_label-prostate_mask.nii.gz",
        t2 > 0.5,
    )
    assert (
        run(["import", "bids", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
    )
    assert _stems(tmp_path / "out") == {"ax_t2wi", "ax_dwi_b0", "ax_dwi_b800", "ax_dwi_b1400", "roi_Prostate"}
    b800 = np.asarray(nibabel.load(tmp_path / "out" / "case_0001" / "ax_dwi_b800.nii.gz").dataobj)
    assert (b800[1:] == 25).all()
    volumes = read_case(discover_cases(tmp_path / "out")[0], ("ax_t2wi", "ax_adc", "ax_dwi"))
    assert volumes.present.tolist() == [True, False, True] and volumes.mask is not None


def test_loose_nifti_with_a_mapping(tmp_path: Path) -> None:
    _nifti(tmp_path / "in" / "a.nii", np.ones((32, 32, 6)))
    _mha(tmp_path / "in" / "b.mha", 5)
    mapping = tmp_path / "map.csv"
    mapping.write_text("patient_id,file,sequence\nP7,a.nii,ax_t2wi\nP7,b.mha,ax_dwi_b1000\n")
    command = [
        "import",
        "nifti",
        str(tmp_path / "in"),
        "--mapping",
        str(mapping),
        "--out",
        str(tmp_path / "out"),
    ]
    assert run([*command, "--keep-ids", "--workers", "1"]) == 0
    assert _stems(tmp_path / "out", "P7") == {"ax_t2wi", "ax_dwi_b1000"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("patient,file\nP,a.nii\n", "patient_id"),
        ("patient_id,file,sequence\nP,zzz.nii,ax_t2wi\n", "line 2"),
        ("patient_id,file,sequence\nP,a.nii,ax_t2wi\nP,a.nii,ax_t2wi\n", "two files"),
        ("patient_id,file,sequence\nP,a.nii,../x\n", "no name"),
    ],
)
def test_bad_mappings_name_the_line(
    tmp_path: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _nifti(tmp_path / "in" / "a.nii", np.ones((32, 32, 6)))
    (tmp_path / "map.csv").write_text(text)
    arguments = [
        "import",
        "nifti",
        str(tmp_path / "in"),
        "--mapping",
        str(tmp_path / "map.csv"),
        "--out",
        str(tmp_path / "o"),
    ]
    assert run(arguments) == 1 and said in capsys.readouterr().err


def test_a_damaged_mha_is_named_and_the_others_are_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for patient in ("1", "2"):
        _mha(tmp_path / "in" / f"{patient}_10_t2w.mha", 1)
    victim = tmp_path / "in" / "1_10_t2w.mha"
    victim.write_bytes(victim.read_bytes()[:200])
    assert run(["import", "mha", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--workers", "1"]) == 1
    assert "1_10_t2w.mha" in capsys.readouterr().err
    assert len(discover_cases(tmp_path / "out")) == 1
    assert "1_10_t2w" not in (tmp_path / "out" / "import_report.json").read_text()


def _everything_written(out: Path) -> bytes:
    seen = b""
    for path in out.rglob("*"):
        seen += path.name.encode()
        if path.is_file():
            content = path.read_bytes()
            seen += gzip.decompress(content) if path.name.endswith(".gz") else content
    return seen


def test_names_of_files_do_not_reach_the_outputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither in notes (NaN, 4-D) nor in reasons; texts of the NIfTI header neither."""
    source = tmp_path / "in" / "Erika Müller"
    data = np.random.default_rng(0).random((32, 32, 6))
    data[3] = np.nan
    _nifti(source / "Musterfrau_T2.nii", data)
    image = nibabel.Nifti1Image(np.stack([data, data], axis=-1).astype(np.float32), AFFINE)
    image.header["descrip"], image.header["db_name"] = b"Musterfrau^Erika", b"HOSP-4711"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"Musterfrau^Erika"))
    nibabel.save(image, source / "Musterfrau_ADC.nii")
    (source / "Musterfrau_kaputt.nii").write_bytes(b"hello")
    mapping = tmp_path / "map.csv"
    mapping.write_text(
        "patient_id;file;sequence\r\nMusterfrau;Erika Müller/Musterfrau_T2.nii;ax_t2wi\r\n"
        "Musterfrau;Erika Müller/Musterfrau_ADC.nii;ax_adc\r\n"
        "HOSP-4711;Erika Müller/Musterfrau_kaputt.nii;ax_t2wi\r\n",
        encoding="utf-8-sig",
    )
    command = [
        "import",
        "nifti",
        str(tmp_path / "in"),
        "--mapping",
        str(mapping),
        "--out",
        str(tmp_path / "out"),
    ]
    assert run([*command, "--workers", "1"]) == 1 and "Musterfrau_kaputt.nii" in capsys.readouterr().err
    seen = _everything_written(tmp_path / "out")
    for name in ("Musterfrau", "Erika", "Müller", "HOSP-4711", str(tmp_path)):
        assert name.encode() not in seen, name
    assert b"NaN" in seen and b"4-D" in seen
    report = json.loads((tmp_path / "out" / "import_report.json").read_text())
    assert report["counts"] == {"imported": 1, "unchanged": 0, "failed": 1}


def test_names_of_folders_above_a_damaged_file_do_not_reach_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the source was named with a relative path or not."""
    folder = tmp_path / "Erika Mustermann"
    for name, content in (
        ("kaputt.nii", b"hello"),
        ("offen.nii.gz", b"hello"),
        ("kurz.nii.gz", gzip.compress(b"")),
    ):
        _loose(folder, ["gut"])
        (folder / name).write_bytes(content)
        (tmp_path / "m.csv").write_text(f"patient_id,file,sequence\np,{name},ax_t2wi\nq,gut.nii.gz,ax_t2wi\n")
        monkeypatch.chdir(tmp_path)
        words = ["import", "nifti", folder.name, "--mapping", "m.csv", "--out", "out", "--workers", "1"]
        assert run(words) == 1
        assert "Erika" not in (tmp_path / "out" / "import_report.json").read_text()


def test_picai_gland_masks_come_from_the_labels(tmp_path: Path) -> None:
    for kind in ("t2w", "adc", "hbv"):
        _mha(tmp_path / "in" / "images" / "10001" / f"10001_1000001_{kind}.mha", 5)
    labels = tmp_path / "in" / "picai_labels"
    gland, lesion, affine = np.zeros((32, 32, 6)), np.zeros((32, 32, 6)), AFFINE.copy()
    affine[:2, 3] = 80
    gland[10:20, 10:20], lesion[1:3] = 1, 1
    _nifti(
        labels / "anatomical_delineations" / "whole_gland" / "AI" / "Bosma22b" / "10001_1000001.nii.gz",
        gland,
        affine,
    )
    _nifti(labels / "csPCa_lesion_delineations" / "human_expert" / "10001_1000001.nii.gz", lesion, affine)
    out = tmp_path / "out"
    assert run(["import", "mha", str(tmp_path / "in"), "--out", str(out), "--workers", "1"]) == 0
    assert _stems(out) == {"ax_t2wi", "ax_adc", "ax_dwi", "roi_Prostate"}
    mask = np.asarray(nibabel.load(out / "case_0001" / "roi_Prostate.nii.gz").dataobj)
    assert mask.sum() == gland.sum()


def test_bids_raw_images_before_derived_ones_and_b_values_once(tmp_path: Path) -> None:
    data = np.random.default_rng(0).random((32, 32, 6))
    _nifti(tmp_path / "in" / "derivatives" / "x" / "sub-01" / "anat" / "sub-01_desc-n4_T2w.nii.gz", data + 7)
    _nifti(tmp_path / "in" / "sub-01" / "anat" / "sub-01_T2w.nii.gz", data)
    for run_, values in (("1", "50 800"), ("2", "800 1400"), ("3", "x y")):
        stem = tmp_path / "in" / "sub-01" / "dwi" / f"sub-01_run-{run_}_dwi.nii.gz"
        _nifti(stem, np.stack([data + int(run_), data + 10 * int(run_)], axis=-1))
        stem.with_name(f"sub-01_run-{run_}_dwi.bval").write_text(values)
    out = tmp_path / "out"
    assert run(["import", "bids", str(tmp_path / "in"), "--out", str(out), "--workers", "1"]) == 0
    assert _stems(out) == {"ax_t2wi", "ax_dwi_b50", "ax_dwi_b800", "ax_dwi_b1400"}
    for stem, add in (("ax_t2wi", 0), ("ax_dwi_b800", 10), ("ax_dwi_b1400", 20)):
        found = np.asarray(nibabel.load(out / "case_0001" / f"{stem}.nii.gz").dataobj)
        assert np.allclose(found, data + add, atol=1e-4)
    assert "holds no b-values" in (out / "import_report.json").read_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"DimSize": "30000 30000 30000"}, "no MRI"),
        ({"DimSize": "32 32 -6"}, ""),
        ({"ElementSpacing": "0 0 0"}, ""),
        ({"ElementSpacing": "nan 5 4"}, ""),
        ({"Offset": "1e300 0 0"}, "far away"),
        ({"TransformMatrix": "0 0 0 0 0 0 0 0 0"}, ""),
        ({"ElementNumberOfChannels": "3"}, "not intensities"),
        ({"ElementDataFile": "/etc/passwd"}, ""),
        ({"NDims": "2", "DimSize": "32 192"}, ""),
    ],
)
def test_mha_headers_that_lie(
    tmp_path: Path, change: dict[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused by name; the other patient is imported."""
    for patient in ("1", "2"):
        _mha(tmp_path / "in" / f"{patient}_10_t2w.mha", 1)
    victim = tmp_path / "in" / "1_10_t2w.mha"
    head, voxels = victim.read_bytes().split(b"ElementDataFile = LOCAL\n")
    lines = dict(line.split(" = ", 1) for line in head.decode().splitlines())
    lines |= {"ElementNumberOfChannels": "1", "CompressedData": "False", "ElementDataFile": "LOCAL"} | change
    last = lines.pop("ElementDataFile")
    text = "".join(f"{key} = {value}\n" for key, value in lines.items()) + f"ElementDataFile = {last}\n"
    victim.write_bytes(text.encode() + voxels)
    out = tmp_path / "out"
    assert run(["import", "mha", str(tmp_path / "in"), "--out", str(out), "--workers", "1"]) == 1
    error = capsys.readouterr().err
    assert "1_10_t2w.mha" in error and said in error and "fault of prostate-ssl" not in error
    assert len(discover_cases(out)) == 1


def test_importing_and_checking_do_without_torch() -> None:
    """Each of their processes would wait seconds for it."""
    program = (
        "import sys, prostate_ssl.data.checking, prostate_ssl.data.importing.dicom\n"
        "import prostate_ssl.data.importing.files\n"
        "assert 'torch' not in sys.modules\n"
        "from prostate_ssl.data import build_feed, make_dataset"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def _loose(folder: Path, names: list[str], value: float = 0.0) -> Path:
    for number, name in enumerate(names):
        image = np.random.default_rng(number).random((32, 32, 6)) + value
        _nifti(folder / f"{name}.nii.gz", image)
    return folder


def test_a_mended_mapping_is_no_unchanged_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out, mapping = _loose(tmp_path / "in", ["a", "b", "c"]), tmp_path / "out", tmp_path / "m.csv"
    command = ["import", "nifti", str(source), "--mapping", str(mapping), "--out", str(out), "--workers", "1"]
    header = "patient_id,file,sequence\np,a.nii.gz,ax_t2wi\n"
    mapping.write_text(header + "p,b.nii.gz,ax_dwi\np,c.nii.gz,ax_adc\n")
    assert run(command) == 0
    # The same files in another order are the same case; swapped, they are not.
    mapping.write_text(header + "p,c.nii.gz,ax_adc\np,b.nii.gz,ax_dwi\n")
    assert run(command) == 0
    before = (out / "case_0001" / "ax_adc.nii.gz").read_bytes()
    mapping.write_text(header + "p,b.nii.gz,ax_adc\np,c.nii.gz,ax_dwi\n")
    assert run(command) == 1
    assert "under other names or b-values; remove it first" in " ".join(capsys.readouterr().err.split())
    assert (out / "case_0001" / "ax_adc.nii.gz").read_bytes() == before
    mapping.write_text(header + "p,c.nii.gz,ax_adc\n")  # part of the patient is no second one
    assert run(command) == 1
    assert "was imported from some of these images" in " ".join(capsys.readouterr().err.split())
    assert not (out / "case_0002").exists()


def test_the_record_of_who_is_who_grows_and_overwrites_nothing(tmp_path: Path) -> None:
    source, record = _loose(tmp_path / "in", ["a", "b"]), tmp_path / "who.json"
    given = ["--out", str(tmp_path / "out"), "--workers", "1", "--sources", str(record)]
    for patient, name in (("Ada", "a"), ("Bea", "b"), ("Ada", "a")):
        mapping = tmp_path / "m.csv"
        mapping.write_text(f"patient_id,file,sequence\n{patient},{name}.nii.gz,ax_t2wi\n")
        assert run(["import", "nifti", str(source), "--mapping", str(mapping), *given]) == 0
    cases = json.loads(record.read_text())["cases"]
    assert {case: entry["source_id"] for case, entry in cases.items()} == {
        "case_0001": "Ada",
        "case_0002": "Bea",
    }
    assert all("ax_t2wi" in entry["files"] for entry in cases.values())
    record.write_text('{"schema": "somebody else\'s"}')
    assert run(["import", "nifti", str(source), "--mapping", str(mapping), *given]) == 2
    assert record.read_text() == '{"schema": "somebody else\'s"}'


@pytest.mark.parametrize("keep", [[], ["--keep-ids"]])
def test_patients_with_the_same_images_keep_their_names(tmp_path: Path, keep: list[str]) -> None:
    source, out, record = _loose(tmp_path / "in", ["a"]), tmp_path / "out", tmp_path / "who.json"
    mapping = tmp_path / "m.csv"
    command = ["import", "nifti", str(source), "--mapping", str(mapping), "--out", str(out), "--workers", "1"]

    def imported(*patients: str) -> dict[str, str]:
        rows = "".join(f"{patient},a.nii.gz,ax_t2wi\n" for patient in patients)
        mapping.write_text(f"patient_id,file,sequence\n{rows}")
        assert run([*command, "--sources", str(record), *keep]) == 0
        report = json.loads((out / "import_report.json").read_text())
        listed = {case["case_id"] for case in report["cases"]}
        cases = json.loads(record.read_text())["cases"]
        assert listed == cases.keys() == {case.case_id for case in discover_cases(out)}
        return {entry["source_id"]: case for case, entry in cases.items()}

    both = imported("Bea", "Cleo")
    assert len(both) == 2
    assert imported("Bea", "Cleo") == imported("Cleo", "Bea") == imported("Cleo") == both
    hashes = set(re.findall("[0-9a-f]{64}", (out / both["Bea"] / "import.json").read_text()))
    guesses = {hash_of([f"patient {patient}", mark]) for patient in both for mark in hashes}
    assert not guesses & hashes  # who has the outputs alone cannot try out IDs
    three = imported("Ada", "Bea", "Cleo")  # a third with the same images takes nobody's place
    assert len(three) == 3 and both.items() <= three.items()


def test_cases_of_an_older_version_with_the_same_images_are_two_still(tmp_path: Path) -> None:
    """Its manifests name the T2 image without the patient."""
    source, out, mapping = _loose(tmp_path / "in", ["a"]), tmp_path / "out", tmp_path / "m.csv"
    mapping.write_text("patient_id,file,sequence\nAda,a.nii.gz,ax_t2wi\nBea,a.nii.gz,ax_t2wi\n")
    command = ["import", "nifti", str(source), "--mapping", str(mapping), "--out", str(out), "--workers", "1"]
    assert run(command) == 0
    for path in out.glob("*/import.json"):
        document = json.loads(path.read_text())
        path.write_text(json.dumps(document | {"parts": document["parts"][:1]}))
    assert run([*command, "--sources", str(tmp_path / "who.json")]) == 0
    cases = json.loads((tmp_path / "who.json").read_text())["cases"]
    assert {case: entry["source_id"] for case, entry in cases.items()} == {
        "case_0001": "Ada",
        "case_0002": "Bea",
    }


def test_kept_ids_that_would_share_a_folder_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, mapping = _loose(tmp_path / "in", ["a", "b"]), tmp_path / "m.csv"
    mapping.write_text("patient_id,file,sequence\nA B,a.nii.gz,ax_t2wi\nA/B,b.nii.gz,ax_t2wi\n")
    command = ["import", "nifti", str(source), "--mapping", str(mapping), "--out", str(tmp_path / "out")]
    assert run([*command, "--keep-ids"]) == 2
    assert "'A B' and 'A/B' would share the folder A_B" in " ".join(capsys.readouterr().err.split())
    assert not list((tmp_path / "out").glob("A*"))
    assert run(command) == 0
