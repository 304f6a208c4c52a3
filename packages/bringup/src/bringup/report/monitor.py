"""Samples for people: a live table in a terminal, a line a sample elsewhere, and the peaks at the end."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from bringup.report.messages import knows, say
from bringup.report.progress import duration, size
from bringup.steps.monitor.samples import HARMLESS, GpuSample, HostSample, Sample

_BAR = 14


def _share(used: float | None, total: float | None) -> float | None:
    return used / total if used is not None and total else None


def _bar(share: float | None) -> Text:
    if share is None:
        return Text("–")
    filled = round(max(0.0, min(1.0, share)) * _BAR)
    style = "red" if share > 0.95 else "yellow" if share > 0.8 else "green"
    return Text("█" * filled, style=style) + Text("░" * (_BAR - filled), style="dim")


def _number(value: float | None, unit: str) -> str:
    return "–" if value is None else f"{value:.0f} {unit}"


def _memory(used: int | None, total: int | None) -> str:
    if used is None or total is None:
        return "–"
    return f"{used / 1e9:.1f}/{total / 1e9:.1f} GB"


def _power(gpu: GpuSample) -> str:
    if gpu.power is None:
        return "–"
    return f"{gpu.power:.0f} W" if gpu.power_limit is None else f"{gpu.power:.0f}/{gpu.power_limit:.0f} W"


def _reason(name: str) -> str:
    key = f"monitor.throttle.{name}"
    return say(key) if knows(key) else name


def _throttle(gpu: GpuSample) -> Text:
    if gpu.throttle is None:
        return Text("–")
    if not gpu.throttle:
        return Text(say("monitor.full-speed"), style="green")
    harmful = set(gpu.throttle) - HARMLESS
    return Text(", ".join(_reason(name) for name in gpu.throttle), style="red" if harmful else "dim")


def _grid(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, header_style="bold", overflow="fold")
    return table


def _gpu_table(gpus: tuple[GpuSample, ...]) -> Table:
    table = _grid(
        "GPU",
        say("monitor.busy"),
        "",
        say("monitor.memory"),
        "",
        say("monitor.power"),
        "°C",
        "MHz",
        say("monitor.clocks"),
    )
    for gpu in gpus:
        busy = None if gpu.utilization is None else gpu.utilization / 100
        table.add_row(
            f"{gpu.index} {gpu.name.removeprefix('NVIDIA ')}",
            _bar(busy),
            _number(gpu.utilization, "%"),
            _bar(_share(gpu.memory_used, gpu.memory_total)),
            _memory(gpu.memory_used, gpu.memory_total),
            _power(gpu),
            "–" if gpu.temperature is None else str(gpu.temperature),
            "–" if gpu.clock is None else str(gpu.clock),
            _throttle(gpu),
        )
    return table


def _rate(value: float | None) -> str:
    return "–" if value is None else f"{size(value)}/s"


def _host_table(host: HostSample) -> Table:
    table = _grid("", "", "", "")
    table.show_header = False
    limited = say("monitor.limited") if host.limited else ""
    cores = f"{host.cores:g} {say('monitor.cores')}"
    table.add_row(say("monitor.cpu"), _bar(host.cpu / 100), f"{host.cpu:.0f} %", cores)
    memory = _memory(host.memory_used, host.memory_total)
    table.add_row(say("monitor.memory"), _bar(_share(host.memory_used, host.memory_total)), memory, limited)
    swap = _memory(host.swap_used, host.swap_total) if host.swap_total else "–"
    table.add_row(say("monitor.swap"), _bar(_share(host.swap_used, host.swap_total)), swap, "")
    disk = say("monitor.rates", read=_rate(host.disk_read), write=_rate(host.disk_write))
    table.add_row(say("monitor.disk"), "", say("monitor.free", size=size(host.disk_free)), disk)
    return table


def live_table(sample: Sample) -> Group:
    """Everything at one moment, as it is redrawn in a terminal."""
    gpus = _gpu_table(sample.gpus) if sample.gpus else Text(say("monitor.no-gpu"), style="dim")
    hint = Text(say("monitor.hint"), style="dim")
    return Group(gpus, Text(), _host_table(sample.host), Text(), hint)


def plain_line(sample: Sample) -> str:
    """One line for a file or a pipe."""
    host = sample.host
    parts = [time.strftime("%H:%M:%S", time.localtime(sample.time))]
    for gpu in sample.gpus:
        words = [
            f"GPU{gpu.index}",
            _number(gpu.utilization, "%"),
            _memory(gpu.memory_used, gpu.memory_total),
            _power(gpu),
            _number(gpu.temperature, "°C"),
            _number(gpu.clock, "MHz"),
        ]
        harmful = [_reason(name) for name in gpu.throttle or () if name not in HARMLESS]
        parts.append(" ".join([*words, *harmful]))
    parts.append(f"{say('monitor.cpu')} {host.cpu:.0f} %")
    parts.append(f"{say('monitor.memory')} {_memory(host.memory_used, host.memory_total)}")
    if host.swap_total:
        parts.append(f"{say('monitor.swap')} {_memory(host.swap_used, host.swap_total)}")
    return " | ".join(parts)


@dataclass
class Peaks:
    """The highest of each while it ran."""

    samples: int = 0
    first: float = 0.0
    last: float = 0.0
    memory: int = 0
    swap: int = 0
    gpus: dict[int, dict[str, float]] = field(default_factory=dict)
    throttle: dict[int, set[str]] = field(default_factory=dict)

    def add(self, sample: Sample) -> None:
        """Take a sample in."""
        self.first = self.first or sample.time
        self.last = sample.time
        self.samples += 1
        self.memory = max(self.memory, sample.host.memory_used)
        self.swap = max(self.swap, sample.host.swap_used)
        for gpu in sample.gpus:
            values = {"busy": gpu.utilization, "memory": gpu.memory_used, "power": gpu.power}
            values["temperature"] = gpu.temperature
            known = self.gpus.setdefault(gpu.index, {})
            for name, value in values.items():
                if value is not None:
                    known[name] = max(known.get(name, 0.0), value)
            self.throttle.setdefault(gpu.index, set()).update(set(gpu.throttle or ()) - HARMLESS)

    def print(self, console: Console) -> None:
        """A line for the host and one for each GPU."""
        if not self.samples:
            return
        passed = duration(self.last - self.first)
        memory, swap = size(self.memory), size(self.swap)
        text = say("monitor.peaks", count=self.samples, duration=passed, memory=memory, swap=swap)
        console.print(text, markup=False)
        for index, known in self.gpus.items():
            text = say(
                "monitor.gpu-peaks",
                index=index,
                busy=_number(known.get("busy"), "%"),
                memory=size(known["memory"]) if "memory" in known else "–",
                power=_number(known.get("power"), "W"),
                temperature=_number(known.get("temperature"), "°C"),
            )
            reasons = ", ".join(_reason(name) for name in sorted(self.throttle[index]))
            console.print(text + (say("monitor.slowed", reasons=reasons) if reasons else ""), markup=False)
