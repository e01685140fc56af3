"""The command ``bluesky-bayes phases``."""

from __future__ import annotations

import math
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
    from bluesky_bayes.phases.patterns import NoWavelengthError

    rays, ends, symbols = _radiation(radiation, wavelength), _ends(between), _symbols(elements)
    if plot is not None:
        _check_picture(plot)
    try:
        measured = read_pattern(pattern, rays)
    except NoWavelengthError:
        said = f"{pattern.name} says no wavelength: give --radiation CuKa, another anode, or --wavelength"
        raise ValueError(said) from None
    if ends is not None:
        measured = measured.within(*ends)
    console = Console()
    with console.status("calculating the library"):
        candidates = Library.from_folder(library, measured.radiation, measured.d_min)
    if symbols:
        candidates = candidates.only(symbols)
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


def _ends(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        low, high = math.nan, math.nan
    if not low < high:
        raise ValueError(f"--between must be two rising angles in degrees such as 20:80; got {text!r}")
    return low, high


def _symbols(text: str | None) -> list[str]:
    symbols = [] if text is None else [symbol.strip() for symbol in text.split(",")]
    if not all(symbol.isalpha() for symbol in symbols):
        raise ValueError(f"--elements must be symbols with commas between them such as Fe,O; got {text!r}")
    return symbols


def _check_picture(path: Path) -> None:
    """Refuse what could not be written after a long search."""
    from matplotlib.figure import Figure

    if not path.parent.is_dir():
        raise ValueError(f"--plot {path} cannot be written: there is no folder {path.parent}; make it first")
    known = Figure().canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise ValueError(f"--plot {path} cannot be written: its name must end in one of .{', .'.join(sorted(known))}")
