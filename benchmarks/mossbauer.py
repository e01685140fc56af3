"""Classes of real Moessbauer spectra: 2-line ferrihydrite against temperature, and as counts come in at 75 K.

The data are those of A. Grigg, high-temp-res-mossbauer-profiles (CC-BY-4.0); the answers are in
`docs/families/mossbauer.md`.
"""

import argparse
import time
from pathlib import Path

from machine import describe
from scipy import stats

from bluesky_bayes import Candidates, Selection, Settings, select
from bluesky_bayes.families import mossbauer_classes
from bluesky_bayes.families.mossbauer import CLASSES, magnetic_classes
from bluesky_bayes.readers.mossbauer import Calibration, by_time, calibrate, read_counts, spectrum

SETTINGS = Settings(error=0.3, longest=2400)
COMING_IN = (0, 1, 2, 4, 10, 20, 40, 60, 80)


def answer(path: Path, drive: Calibration, candidates: Candidates, folded: bool) -> tuple[Selection, float]:
    """The answer and how long it took."""
    begun = time.perf_counter()
    selection = select(spectrum(path, drive, folded), candidates, settings=SETTINGS)
    return selection, time.perf_counter() - begun


def main() -> None:
    """Print a line for each spectrum."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="with the foil and the folders of spectra")
    parser.add_argument("--kelvin", type=float, nargs="*", help="those temperatures only")
    parser.add_argument(
        "--series", action="store_true", help="the series at 75 K instead, with one sextet and one doublet"
    )
    parser.add_argument("--unfolded", action="store_true")
    options = parser.parse_args()
    print(describe())
    drive = calibrate(read_counts(options.folder / "2L_Fh_velocity_calibration_v12.dat"))
    print(drive)
    if options.series:
        paths = by_time((options.folder / "2L_Fh_75K_every_30s").glob("*.dat"))
        chosen = [(f"file {i}", paths[i]) for i in COMING_IN]
    else:
        found = {
            float(path.name.split("K_")[0]): path for path in (options.folder / "2L_Fh_high_SNR").glob("*30.0m.dat")
        }
        chosen = [(f"{t:g} K", found[t]) for t in sorted(found) if not options.kelvin or t in options.kelvin]
    candidates = mossbauer_classes(1 if options.series else 2, priors={"splitting": stats.uniform(0, 2)})
    print(
        f"{'':8} {'counts':>8}"
        + "".join(f"{name:>20}" for name in CLASSES)
        + "   best model, p of a worse fit, warnings"
    )
    for name, path in chosen:
        selection, seconds = answer(path, drive, candidates, not options.unfolded)
        classes = magnetic_classes(selection)
        top = max(c.log_evidence for c in classes.values())
        row = "".join(f"{c.log_evidence - top:13.1f} ± {c.log_evidence_error:4.2f}" for c in classes.values())
        best = f"{selection.best.model.name}, {selection.best.diagnostics.p_fit:.3f}, {seconds:.0f} s"
        print(f"{name:8} {selection.data.y.mean():8.0f}{row}   {best}")
        for warning in selection.warnings:
            print(f"         {warning}", flush=True)


if __name__ == "__main__":
    main()
