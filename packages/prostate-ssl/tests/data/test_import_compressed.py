"""DICOM whose pixels are compressed, as archives send it, and an import that is killed."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEGLSLossless, RLELossless

from prostate_ssl.cli.main import run
from prostate_ssl.data.importing.dicom import import_dicom

sys.path.insert(0, str(Path(__file__).parent))
from dicom_writer import study, write_series

# 32 × 32 pixels of 130, the first row 130 … 161, coded by CharLS: no encoder for JPEG-LS is installed here.
JPEG_LS = base64.b64decode(
    "/9j/9wALEAAgACABAREA//gADQH//wASAEMBFABA/9oACAEBAAAAAFA4AwBgGAYDAYDAYGBgYGBgYGBgwYMGDBgwYMGDBgwYMAIAwBgDAMAwGAwGAwMDAwMDAwMD"
    "BgDAGAYBgMBgMBgYGBgYA/9//3//f//Z"
)
PIXELS = np.full((32, 32), 130, np.uint16)
PIXELS[0] += np.arange(32, dtype=np.uint16)


def _gdcm_frame(compressor: str, folder: Path) -> tuple[bytes, str]:
    """The picture as GDCM codes it: its one frame and the transfer syntax."""
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetUseCompression(True)
    writer.SetCompressor(compressor)
    writer.SetFileName(str(folder / f"{compressor}.dcm"))
    writer.Execute(sitk.GetImageFromArray(PIXELS[None]))
    coded = pydicom.dcmread(folder / f"{compressor}.dcm")
    return next(generate_frames(coded.PixelData, number_of_frames=1)), coded.file_meta.TransferSyntaxUID


def _compress(path: Path, syntax: str, folder: Path) -> None:
    image = pydicom.dcmread(path)
    image.PixelData = PIXELS.tobytes()
    if syntax == "RLE":
        image.compress(RLELossless)
    else:
        frame, uid = (JPEG_LS, JPEGLSLossless) if syntax == "JPEG-LS" else _gdcm_frame(syntax, folder)
        image.file_meta.TransferSyntaxUID = uid
        image.PixelData = encapsulate([frame])
        image["PixelData"].is_undefined_length = True
    image.RescaleSlope, image.RescaleIntercept = "2", "-5"
    image.save_as(path)


@pytest.mark.parametrize("syntax", ["RLE", "JPEG", "JPEG2000", "JPEG-LS"])
def test_compressed_pixels_are_read_and_rescaled_once(tmp_path: Path, syntax: str) -> None:
    write_series(tmp_path / "in", study(), 4, "t2_tse_tra")
    for path in (tmp_path / "in").iterdir():
        _compress(path, syntax, tmp_path)
    outcome = import_dicom(tmp_path / "in", tmp_path / "out", workers=1).outcomes[0]
    assert outcome.status == "imported", outcome.reason
    written = np.asarray(nibabel.load(tmp_path / "out" / "case_0001" / "ax_t2wi.nii.gz").dataobj)
    assert written.shape == (32, 32, 8)
    for index in range(8):
        assert sorted(written[..., index].ravel()) == sorted(2.0 * PIXELS.ravel() - 5)


@pytest.mark.parametrize("syntax", ["RLE", "JPEG"])
def test_padding_of_compressed_pixels_becomes_zero(tmp_path: Path, syntax: str) -> None:
    """GDCM hands its pixels over rescaled, the padding is given as stored."""
    write_series(tmp_path / "in", study(), 4, "t2_tse_tra")
    padding = int(PIXELS[0, 0])
    for path in (tmp_path / "in").iterdir():
        _compress(path, syntax, tmp_path)
        image = pydicom.dcmread(path)
        image.add_new("PixelPaddingValue", "US", padding)
        image.save_as(path)
    outcome = import_dicom(tmp_path / "in", tmp_path / "out", workers=1).outcomes[0]
    assert outcome.status == "imported", outcome.reason
    written = np.asarray(nibabel.load(tmp_path / "out" / "case_0001" / "ax_t2wi.nii.gz").dataobj)
    expected = np.where(padding == PIXELS, 0, 2.0 * PIXELS - 5)
    assert sorted(written[..., 0].ravel()) == sorted(expected.ravel())


def test_a_truncated_compressed_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_series(tmp_path / "in", study(), 4, "t2_tse_tra")
    victim = sorted((tmp_path / "in").iterdir())[3]
    for path in (tmp_path / "in").iterdir():
        _compress(path, "JPEG2000", tmp_path)
    whole = victim.read_bytes()
    victim.write_bytes(whole[: -len(whole) // 8])
    assert run(["import", "dicom", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 1
    assert victim.name in capsys.readouterr().err


def test_the_table_fits_eighty_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = study()
    write_series(tmp_path / "in", shared, 4, "t2_tse_tra")
    write_series(tmp_path / "in", shared, 11, "an_uncommonly_long_description_of_a_series_that_nobody_wants")
    run(["import", "dicom", str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    shown = capsys.readouterr().out
    assert "case_0001" in shown and max(len(line) for line in shown.splitlines()) <= 80
    assert "…" not in shown


@pytest.mark.slow
def test_a_killed_import_goes_on_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for patient in range(12):
        shared = study(PatientID=f"P{patient}")
        write_series(source / str(patient), shared, 4, "t2_tse_tra", slices=24, size=192, pixel=0.9)
    command = [
        sys.executable,
        "-c",
        "import sys; from prostate_ssl.cli.main import run; sys.exit(run(sys.argv[1:]))",
    ]
    command += ["import", "dicom", str(source), "--out", str(out), "--workers", "2"]
    for wait in (0.0, 0.15, 0.3, 0.6, 1.0):
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + 60
        before = len(list(out.glob("case_*"))) if out.exists() else 0
        while process.poll() is None and time.monotonic() < deadline:
            if out.exists() and len(list(out.glob("case_*"))) > before:
                break
            time.sleep(0.01)
        time.sleep(wait)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for case in out.glob("case_*"):  # what has its final name is whole
            for image in case.glob("*.nii.gz"):
                assert np.asarray(nibabel.load(image).dataobj).shape == (192, 192, 24)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(out.glob("case_*"))) == 12
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "12 unchanged" in again.stdout
