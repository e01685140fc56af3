"""The command ``bluesky-bayes phases``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bluesky_bayes.phases import Radiation


def phases(
    pattern: Annotated[
        Path,
        typer.Argument(
            metavar="PATTERN", help="Columns (.xy, .xye, .csv) or PANalytical XML (.xrdml).", dir_okay=False
        ),
    ],
    library: Annotated[Path, typer.Option(metavar="DIR", help="Folder of .cif files.")],
    radiation: Annotated[str | None, typer.Option(help="Anode: CuKa, CuKa1, CoKa, MoKa ...")] = None,
    wavelength: Annotated[float | None, typer.Option(help="Of a synchrotron, Angstrom, in place of an anode.")] = None,
    elements: Annotated[str | None, typer.Option(help="Only structures made of these: Fe,O.")] = None,
    between: Annotated[str | None, typer.Option(help="Only these angles, degrees: 20:80.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw the answer.")] = None,
) -> None:
    """Tell which crystal phases are in a powder pattern.

    Every structure of a folder of CIF files is a candidate; they are calculated the first time and kept. Prints each
    phase with its probability, weight share, cell and width, the lines that no candidate explains, and what speaks
    against the answer. When the input is wrong it says so in one sentence and ends with exit code 2.
    """
    from rich.console import Console

    from bluesky_bayes.phases import Library, read_pattern, search

    rays = _radiation(radiation, wavelength)
    if rays is None and pattern.suffix.lower() != ".xrdml":
        raise ValueError(f"{pattern.name} says no wavelength: give --radiation CuKa, another anode, or --wavelength")
    measured = read_pattern(pattern, rays)
    if between is not None:
        measured = measured.within(*_ends(between))
    console = Console()
    with console.status("calculating the library"):
        candidates = Library.from_folder(library, measured.radiation, measured.d_min)
    if elements is not None:
        candidates = candidates.only([element.strip() for element in elements.split(",")])
    with console.status(f"searching {len(candidates)} structures"):
        answer = search(measured, candidates)
    console.print(answer.summary())
    if plot is not None:
        answer.plot().savefig(plot, dpi=150)
        console.print(f"Picture: {plot}", soft_wrap=True)


def _radiation(name: str | None, wavelength: float | None) -> Radiation | None:
    from bluesky_bayes.phases import Radiation

    if name is not None and wavelength is not None:
        raise ValueError("give --radiation or --wavelength, not both")
    given = name if wavelength is None else wavelength
    return None if given is None else Radiation.of(given)


def _ends(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        raise ValueError(f"--between must be two angles in degrees such as 20:80; got {text!r}") from None
    return low, high
