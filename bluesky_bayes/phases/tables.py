"""The answer to a phase search as text: tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bluesky_bayes.tables import probability

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from bluesky_bayes.phases.selection import Phase, PhaseSelection


def phases_summary(selection: PhaseSelection) -> RenderableType:
    """Phases, lines of none, the verdict, and what was warned of; readable from 80 columns up."""
    from rich.console import Group
    from rich.text import Text

    lines: list[RenderableType] = []
    if selection.phases:
        lines.append(_phases(selection))
    if selection.unexplained:
        lines.append(_lines(selection))
    lines.append(Text(f"Verdict: {selection.verdict}", style="bold"))
    lines += [Text(f"Note: {note}", style="dim") for note in selection.notes]
    lines += [Text(f"Warning: {warning}", style="yellow") for warning in selection.warnings]
    return Group(*lines)


def _phases(selection: PhaseSelection) -> Table:
    from rich.table import Table

    pattern = selection.pattern
    table = Table(
        title=f"{pattern.name}: {pattern.two_theta[0]:.2f} to {pattern.two_theta[-1]:.2f} degrees, "
        f"{pattern.radiation.wavelengths[0]:g} Å, {len(selection.probabilities)} structures",
        title_justify="left",
    )
    table.add_column("phase")
    for header in ("p", "weight %", "area %", "cell (Å, °)", "strain %", "width °"):
        table.add_column(header, justify="right", no_wrap=header != "cell (Å, °)")
    for phase in selection.phases:
        table.add_row(
            phase.name + ("" if phase.status == "present" else ": undecided"),
            probability(phase.probability, 0.0),
            "{:.0f} ({:.0f}-{:.0f})".format(*(100.0 * end for end in phase.weight)),
            f"{100.0 * phase.share:.1f}",
            cell_text(phase),
            f"{100.0 * phase.strain:+.2f}",
            f"{phase.width:.3f}",
        )
    return table


def _lines(selection: PhaseSelection) -> Table:
    from rich.table import Table

    table = Table(title="Explained by no candidate", title_justify="left")
    for header in ("2θ °", "d (Å)", "width °", "area %", "log Bayes factor"):
        table.add_column(header, justify="right")
    for line in selection.unexplained:
        table.add_row(
            f"{line.two_theta:.2f}" + (" (halo)" if line.halo else ""),
            f"{line.spacing:.4f}",
            f"{line.width:.3f}",
            f"{100.0 * line.share:.1f}",
            f"{line.log_bayes_factor:.1f}",
        )
    return table


def cell_text(phase: Phase) -> str:
    """The cell's lengths and angles, without those that its lattice system fixes or makes equal."""
    a, b, c, alpha, beta, gamma = (float(value) for value in phase.cell)
    match phase.structure.lattice:
        case "cubic":
            return f"{a:.4f}"
        case "tetragonal" | "hexagonal":
            return f"{a:.4f} {b:.4f} {c:.4f}" if abs(a - b) > 1e-4 * a else f"{a:.4f} {c:.4f}"
        case "rhombohedral":
            return f"{a:.4f} {alpha:.2f}"
        case "orthorhombic":
            return f"{a:.4f} {b:.4f} {c:.4f}"
    angles = " ".join(f"{angle:.2f}" for angle in (alpha, beta, gamma) if abs(angle - 90.0) > 0.005)
    return f"{a:.4f} {b:.4f} {c:.4f} {angles}"
