"""``nexus doctor``."""

from __future__ import annotations

import json

import click

_MARKS = {"ok": "ok  ", "note": "note", "warn": "WARN", "fail": "FAIL"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--syscalls", is_flag=True, help="Show which system calls a microVM serves, instead.")
@click.option("--markdown", is_flag=True, hidden=True, help="With --syscalls: the page docs/syscalls.md.")
def doctor(*, as_json: bool, syscalls: bool, markdown: bool) -> int:
    """Check this machine, and say what to do. Exit status 1: functions cannot run here at all."""
    if syscalls:
        from nexus.doctor.syscalls import markdown as page
        from nexus.doctor.syscalls import table, text

        calls = table()
        if as_json:
            click.echo(json.dumps([call.__dict__ for call in calls], indent=2))
        else:
            click.echo(page(calls) if markdown else text(calls), nl=not markdown)
        return 0
    from nexus.doctor.checks import examine

    findings = examine()
    broken = any(finding.level == "fail" for finding in findings)
    if as_json:
        document = {"ok": not broken, "checks": [finding.__dict__ for finding in findings]}
        click.echo(json.dumps(document, indent=2))
        return int(broken)
    for finding in findings:
        click.echo(f"{_MARKS[finding.level]}  {finding.name:<18} {finding.text}")
        if finding.advice:
            click.echo(f"{'':<6}{'':<18} -> {finding.advice}")
    return int(broken)
