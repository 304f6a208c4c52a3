"""A picture of a run's losses, gradient norms and schedules."""

from __future__ import annotations

from pathlib import Path

from prostate_ssl.files import write_figure

_PANELS = (
    ("losses", ("total_loss", "dino_local_crops_loss", "dino_global_crops_loss", "ibot_loss", "koleo_loss")),
    ("gradient norm before clipping", ("grad_norm_backbone", "grad_norm_dino_head", "grad_norm_ibot_head")),
    ("learning rate", ("lr", "last_layer_lr")),
    ("weight decay, momentum, teacher temperature", ("wd", "mom", "teacher_temp")),
)


def draw_curves(records: dict[int, dict[str, float]], path: Path) -> None:
    """Draw the metrics of a run over its iterations into a PNG.

    Args:
        records: values by iteration.
        path: picture to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    for index, (title, names) in enumerate(_PANELS):
        axes = figure.add_subplot(2, 2, index + 1)
        for name in names:
            points = [(i, r[name]) for i, r in records.items() if r.get(name) is not None]
            if points:
                marker = "." if len(points) < 40 else None
                axes.plot(*zip(*points, strict=True), label=name, linewidth=1.2, marker=marker)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("iteration", fontsize=8)
        axes.grid(alpha=0.25)
        axes.tick_params(labelsize=8)
        if axes.lines:
            axes.legend(fontsize=7)
    write_figure(path, figure, dpi=110)
