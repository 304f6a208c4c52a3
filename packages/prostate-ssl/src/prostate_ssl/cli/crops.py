"""`prostate-ssl crops DATA --out sheet.png`: a contact sheet of what the network sees."""

from __future__ import annotations

from pathlib import Path

import typer


def command(
    data: str = typer.Argument(..., help="Data folder, or a dataset string."),
    out: Path = typer.Option(Path("crops.png"), "--out", help="Picture to write."),
    case: str | None = typer.Option(None, "--case", help="Patient; default: the first."),
    batches: int = typer.Option(1, "--batches", min=1, help="Run so many batches; the last is drawn."),
    cache: Path | None = typer.Option(None, "--cache", help="Cache folder."),
    seed: int = typer.Option(0, "--seed", min=0),
) -> None:
    """Draw the two global and eight local crops of a case: masked patches red, the gland's outline yellow."""
    import time

    from prostate_ssl.config.dataset_string import with_options
    from prostate_ssl.data import AugmentationSettings, build_feed, make_dataset
    from prostate_ssl.data.contact_sheet import draw_contact_sheet
    from prostate_ssl.errors import ProstateError

    named = data
    if Path(data).is_dir() or not data.startswith("Prostate"):
        options = {"root": data, "random_axes": True, "random_slices": True}
        named = with_options("ProstateSSL", **options)
    dataset = make_dataset(dataset_str=named)
    if case is not None and case not in dataset.case_ids:
        raise ProstateError(f"There is no case {case}; the first is {dataset.case_ids[0]}.", exit_code=2)
    wanted = dataset.case_ids.index(case) if case is not None else 0
    settings = AugmentationSettings(append_label_mask=True)  # for the outline; other channels stay the same
    # One batch holds every case up to a dozen: the wanted one is certainly among them.
    size = min(len(dataset), 12) if case is None or len(dataset) <= 12 else len(dataset)
    feed = build_feed(dataset, settings, size, seed, cache=cache)
    begun = time.perf_counter()
    stream = feed.batches()
    batch = next(stream)
    for _ in range(batches - 1):
        batch = next(stream)
    seconds = time.perf_counter() - begun
    rows = (batch.case_index == wanted).nonzero().flatten().tolist()
    row = rows[0] if rows else 0
    name = dataset.case_ids[int(batch.case_index[row])]
    plane, at = feed.slice_of(batches - 1, row)
    title = f"{name}, batch {batches}, {plane} slice {at}"
    out.parent.mkdir(parents=True, exist_ok=True)
    draw_contact_sheet(batch, row, dataset.modalities, title, settings.patch_size, out)
    for bad in feed.dropped:
        print(f"dropped: {bad.case_id}: {bad.reason}")
    print(f"{batches} batches of {size} in {seconds:.1f} s; {title}: {out}")
