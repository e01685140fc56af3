"""The answer as text: tables for a terminal, every number rounded to what its error allows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from bluesky_bayes.selection import Selection

WIDEST = 6
"""Digits a number may have, on one side of the point, before it is written with a power of ten."""


def rounded(value: float, error: float) -> str:
    """`value` rounded to two significant digits of its `error`.

    Examples
    --------
    >>> rounded(1.20963, 0.0158)
    '1.210'
    >>> rounded(0.0158, 0.0158), rounded(0.0996, 0.0996)
    ('0.016', '0.10')
    >>> rounded(12345.6, 321.0)
    '12350'
    >>> rounded(1.2345e-7, 3.1e-9), rounded(1.2345e9, 3.1e6)
    ('1.235e-07', '1.2345e+09')
    >>> rounded(-0.00003, 0.00099), rounded(0.0, 0.02)
    ('-0.00003', '0.000')
    >>> rounded(1764500000.25, 0.12)
    '1764500000.25'

    Without an error, six digits:

    >>> rounded(math.pi, 0.0)
    '3.14159'
    """
    if not (math.isfinite(value) and math.isfinite(error) and error > 0):
        return f"{value:.6g}"
    place = int(f"{error:.1e}".split("e")[1]) - 1
    leading = max(int(f"{abs(value):e}".split("e")[1]), place + 1)
    if (leading >= WIDEST and place >= 0) or leading < 2 - WIDEST:
        return f"{value:.{leading - place}e}"
    return f"{round(value, -place):.{max(-place, 0)}f}"


def with_error(value: float, error: float) -> str:
    """`value` and its `error`, both to two significant digits of the error.

    Examples
    --------
    >>> with_error(1.20963, 0.0158)
    '1.210 ± 0.016'

    What is exact stands alone:

    >>> with_error(-2.5, 0.0)
    '-2.5'
    """
    return f"{value:.6g}" if error == 0 else f"{rounded(value, error)} ± {rounded(error, error)}"


def probability(p: float, error: float) -> str:
    """Probability and its error, to three digits at most.

    Examples
    --------
    >>> probability(0.51234, 0.0712), probability(0.9991, 0.0001), probability(1e-9, 1e-10)
    ('0.512 ± 0.071', '0.999', '< 0.001')
    """
    if p < 0.0005:
        return "< 0.001"
    return f"{p:.3f} ± {error:.3f}" if error >= 0.0005 else f"{p:.3f}"


def selection_table(selection: Selection) -> RenderableType:
    """Models, parameters of the best one, the verdict, and what was noted or warned of.

    Parameters
    ----------
    selection : Selection

    Returns
    -------
    rich renderable
        For ``rich.print``; readable from 80 columns up.
    """
    from rich.console import Group
    from rich.text import Text

    lines: list[RenderableType] = [models_table(selection)]
    if selection.best.draws:
        lines.append(parameters_table(selection))
    lines.append(Text(f"Verdict: {selection.verdict}", style="bold"))
    lines += [Text(f"Note: {note}", style="dim") for note in selection.notes]
    lines += [Text(f"Warning: {warning}", style="yellow") for warning in selection.warnings]
    return Group(*lines)


def models_table(selection: Selection) -> Table:
    """One row for each model: p, log evidence and its difference to the best, with errors."""
    from rich.table import Table

    table = Table(title=_title(selection), title_justify="left")
    table.add_column("model")
    for header in ("p(model | data)", "log evidence", "less the best's"):
        table.add_column(header, justify="right", no_wrap=True)
    best, log_z, errors = selection.best_index, selection.log_evidence, selection.log_evidence_error
    for i, (name, p, p_error) in enumerate(
        zip(selection.names, selection.probabilities, selection.probability_errors, strict=True)
    ):
        gap = "" if i == best else with_error(log_z[i] - log_z[best], float(np.hypot(errors[i], errors[best])))
        style = "bold" if i == best else None
        table.add_row(name, probability(p, p_error), with_error(log_z[i], errors[i]), gap, style=style)
    return table


def parameters_table(selection: Selection) -> Table:
    """One row for each parameter of the best model, component by component."""
    from rich.table import Table

    best, units = selection.best, selection.data.units
    table = Table(title=f"Parameters of {best.model.name!r}", title_justify="left")
    table.add_column("parameter", no_wrap=True)
    for header in ("median", "sd"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("95 % interval", justify="right")
    table.add_column("unit", no_wrap=True)
    summaries = best.parameters
    names = by_component(list(summaries))
    for name, following in zip(names, [*names[1:], ""], strict=True):
        s = summaries[name]
        interval = f"{rounded(s.low, s.sd)} to {rounded(s.high, s.sd)}"
        table.add_row(
            name,
            rounded(s.median, s.sd),
            rounded(s.sd, s.sd),
            interval,
            best.unit(name, units),
            end_section=component_of(name) != component_of(following),
        )
    return table


def by_component(names: list[str]) -> list[str]:
    """Names in their order, those of one component together.

    Examples
    --------
    >>> by_component(["peak1.center", "peak2.center", "constant", "peak1.area", "peak2.area"])
    ['peak1.center', 'peak1.area', 'peak2.center', 'peak2.area', 'constant']
    """
    labels = list(dict.fromkeys(component_of(name) for name in names))
    return sorted(names, key=lambda name: labels.index(component_of(name)))


def component_of(name: str) -> str:
    """Label of the component that a parameter belongs to; empty for one that belongs to none or to several."""
    return name.split(".")[0] if "." in name else ""


def _title(selection: Selection) -> str:
    data, origin = selection.data, selection.data.origin
    scan = f"Scan {origin.scan_id}: " if origin.scan_id is not None else ""
    if origin.events:
        n = len(origin.events)
        scan += f"event {origin.events[0]}, " if n == 1 else f"{n} events added up, "
    return f"{scan}{origin.y} against {origin.x}, {data.n} points, {selection.noise}"
