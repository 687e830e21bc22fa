"""``nexus ps`` and ``nexus top``."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

from nexus.cli.options import state_option

if TYPE_CHECKING:
    from pathlib import Path

    from nexus.sdk.node import Node


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@state_option
def ps(*, as_json: bool, state: Path) -> None:
    """List what is deployed and what runs."""
    from nexus.sdk.node import Node

    node = Node.connect(state)
    functions, instances = node.functions(), node.instances()
    if as_json:
        click.echo(json.dumps({"functions": functions, "instances": instances}))
        return
    for line in _tables(functions, instances):
        click.echo(line)


def _tables(functions: list[dict[str, Any]], instances: list[dict[str, Any]]) -> list[str]:
    running: dict[str, int] = {}
    for instance in instances:
        running[str(instance.get("function"))] = running.get(str(instance.get("function")), 0) + 1
    lines = [f"{'FUNCTION':<24} {'HANDLER':<28} {'MEMORY':>8} {'ISOLATION':<10} {'INSTANCES':>9}"]
    for function in functions:
        deployment = {**function, **(function.get("deployment") or {})}
        name = str(deployment.get("name", "?"))
        lines.append(
            f"{name:<24} {deployment.get('handler', ''):<28} {deployment.get('memory_mib', '?'):>4} MiB "
            f"{function.get('isolation', deployment.get('isolation', '')):<10} {running.get(name, 0):>9}"
        )
    lines += ["", f"{'INSTANCE':<24} {'FUNCTION':<20} {'PID':>8} {'STATE':<10} {'ISOLATION':<10} {'CALLS':>7} {'AGE':>8}"]
    lines += [
        f"{i.get('id', '')!s:<24} {i.get('function', ''):<20} {i.get('pid', ''):>8} {i.get('state', ''):<10} "
        f"{i.get('isolation', ''):<10} {i.get('invocations', 0):>7} {float(i.get('age_s', 0)):>7.1f}s"
        for i in instances
    ]
    return lines


@click.command()
@click.option("--interval", type=click.FloatRange(0.1, 60), default=1.0, show_default=True, help="Seconds between looks.")
@click.option("--count", type=click.IntRange(1), help="Looks to take.  [default: until Ctrl-C]")
@state_option
def top(*, interval: float, count: int | None, state: Path) -> None:
    """Watch instances: CPU and memory of each."""
    from rich.console import Console
    from rich.live import Live

    from nexus.sdk.node import Node

    node = Node.connect(state)
    before: dict[int, int] = {}
    with Live(console=Console(), auto_refresh=False) as live:
        taken = 0
        while count is None or taken < count:
            if taken:
                time.sleep(interval)
            table, before = _look(node, before, interval if taken else 0)
            live.update(table, refresh=True)
            taken += 1


def _look(node: Node, before: dict[int, int], interval: float) -> tuple[Any, dict[int, int]]:
    from rich.table import Table

    from nexus.bench.cpu import process_ns
    from nexus.bench.memory import pss_kib

    writes, ahead = node.writes(), node.counters("nexus_prefetches_total")
    caption = (
        f"writes: {writes['pending']} pending, {len(writes['parked'])} parked   reads ahead: {ahead.get('used', 0):.0f} used, "
        f"{ahead.get('revalidated', 0):.0f} confirmed, {ahead.get('wasted', 0):.0f} wasted"
    )
    table = Table(title=f"{node.url}  {time.strftime('%H:%M:%S')}", caption=caption)
    for name, justify in (("instance", "left"), ("function", "left"), ("pid", "right"), ("state", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for name in ("calls", "age s", "cpu %", "PSS MiB"):
        table.add_column(name, justify="right")
    now: dict[int, int] = {}
    for instance in node.instances():
        pid = int(instance.get("pid") or 0)
        now[pid] = process_ns(pid)
        busy = 100 * (now[pid] - before[pid]) / (interval * 1e9) if interval and pid in before else 0.0
        table.add_row(
            str(instance.get("id")),
            str(instance.get("function")),
            str(pid),
            str(instance.get("state")),
            str(instance.get("invocations")),
            f"{float(instance.get('age_s', 0)):.0f}",
            f"{busy:.1f}",
            f"{pss_kib(pid) / 1024:.1f}",
        )
    return table, now
