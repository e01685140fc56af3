"""Measured Moessbauer spectra replayed through simulated devices, as if they came in now."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ophyd import Kind
from ophyd.sim import SynAxis, SynSignal

from bluesky_bayes import Analysis, Candidates, Poisson, Settings
from bluesky_bayes.dataset import Array
from bluesky_bayes.families import mossbauer_classes
from bluesky_bayes.readers.mossbauer import Calibration, by_time, calibrate, fold, read_counts

SETTINGS = Settings(error=0.3, longest=2400)


def drive_of(folder: Path) -> Calibration:
    return calibrate(read_counts(folder / "2L_Fh_velocity_calibration_v12.dat"))


def split_or_not(candidates: Candidates) -> Analysis:
    """Counts against velocity of spectra that come in one after another."""
    return Analysis(candidates, x="velocity", y="mca", noise=Poisson(), settings=SETTINGS)


def classes(mixture: bool, **priors: Any) -> Candidates:
    """A distribution of sextets, one of doublets, and both of them."""
    models = mossbauer_classes(1, priors=priors).models
    return Candidates(models if mixture else models[:2])


class Spectrometer:
    """A detector whose channels are folded, and their velocities beside them.

    Parameters
    ----------
    drive : Calibration
    seconds : float
        What a reading takes.
    """

    def __init__(self, drive: Calibration, seconds: float) -> None:
        channels, _ = fold(np.zeros(1023), drive.fold_point)
        velocity = drive.velocity(channels)
        self._drive = drive
        self.mca = SynSignal(self._folded, name="mca", exposure_time=seconds, kind=Kind.hinted)
        self.velocity = SynSignal(lambda: velocity, name="velocity", kind=Kind.normal)
        self.devices = [self.mca, self.velocity]

    def _folded(self) -> Array:
        return fold(self.counts(), self._drive.fold_point)[1]

    def counts(self) -> Array:
        raise NotImplementedError


class Series(Spectrometer):
    """Spectra of a series whose files are cumulative: what came in between one sound file and the next.

    After the last one it begins again.
    """

    def __init__(self, folder: Path, drive: Calibration, seconds: float) -> None:
        self.damaged: list[str] = []
        sums = [np.zeros(1023)]
        for path in by_time(folder.glob("*.dat")):
            try:
                sums.append(read_counts(path))
            except ValueError as error:
                self.damaged.append(str(error))
        self.parts = np.diff(sums, axis=0)
        self._coming = self._again()
        super().__init__(drive, seconds)

    def counts(self) -> Array:
        return next(self._coming)

    def _again(self) -> Iterator[Array]:
        while True:
            yield from self.parts


class Cooling(Spectrometer):
    """Spectra at some temperatures, the nearest to where a cryostat stands.

    Each reading is another of `parts` equal shares of a spectrum: of Poisson counts these are Poisson counts, as
    if one had counted for so much shorter.
    """

    def __init__(self, folder: Path, drive: Calibration, parts: int, seconds: float) -> None:
        self.temperature = SynAxis(name="temperature", delay=seconds)
        self._paths = {float(path.name.split("K_")[0]): path for path in folder.glob("*_0.0h3?.0m.dat")}
        self._parts, self._shares = parts, dict[float, Iterator[Array]]()
        super().__init__(drive, seconds)

    @property
    def nearest(self) -> float:
        return min(self._paths, key=lambda kelvin: abs(kelvin - self.temperature.position))

    def counts(self) -> Array:
        if self.nearest not in self._shares:
            whole = read_counts(self._paths[self.nearest]).astype(np.int64)
            rng = np.random.default_rng(round(self.nearest))
            shares = rng.multinomial(whole, np.full(self._parts, 1.0 / self._parts))
            self._shares[self.nearest] = iter(shares.T.astype(np.float64))
        return next(self._shares[self.nearest])
