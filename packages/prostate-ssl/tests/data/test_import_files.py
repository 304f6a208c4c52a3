"""PI-CAI .mha, BIDS and loose NIfTI."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from prostate_ssl.cli.main import run
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
