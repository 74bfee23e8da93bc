"""An estimate as tables, for `editkit check`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from editkit.train.estimate import GIB, MIB, Estimate


def print_estimates(here: Estimate | None, elsewhere: Sequence[Estimate], console: Console) -> None:
    """Components of this machine's peak, then a line for every other machine.

    Args:
        here: of this machine; None where it cannot run the recipe.
        elsewhere: of named ones.
        console: where it is printed.
    """
    if here is not None:
        _print_parts(here, console)
    others = Table("machine", "peak, GiB", "of", "a step, s", "", title="elsewhere, not measured: published figures")
    for e in elsewhere:
        peak, memory = f"{e.peak / GIB:.2f}", f"{e.machine.memory / GIB:.0f}"
        others.add_row(e.machine.name, peak, memory, f"{e.seconds_a_step:.3g}", _verdict(e))
    console.print(others)
    for e in elsewhere:
        _print_changes(e, console)


def _print_parts(here: Estimate, console: Console) -> None:
    of_each = " of each process" if here.processes > 1 else ""
    table = Table("memory at the peak" + of_each, "MiB", "", title=f"estimate for {here.machine.name}")
    table.columns[1].justify = "right"
    for part in here.components:
        table.add_row(part.name, f"{part.bytes / MIB:,.1f}", part.how)
    table.add_section()
    table.add_row("peak", f"{here.peak / MIB:,.1f}", f"{_verdict(here)} {here.machine.memory / GIB:.1f} GiB")
    console.print(table)
    console.print(here.line(), soft_wrap=True, highlight=False)
    _print_changes(here, console)


def _verdict(e: Estimate) -> str:
    return "fits in" if e.fits else "DOES NOT FIT in"


def _print_changes(e: Estimate, console: Console) -> None:
    if e.changes:
        console.print(f"to fit into {e.machine.name}:", soft_wrap=True, highlight=False)
        for change in e.changes:
            console.print(
                f"  {change.setting}: {change.saves / MIB:,.0f} MiB less", markup=False, soft_wrap=True, highlight=False
            )
