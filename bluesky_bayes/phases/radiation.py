"""X-rays of a powder diffractometer: wavelengths, their shares, polarisation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bluesky_bayes.dataset import Array

EMISSION = {
    "CrKa": (2.289726, 2.293651),
    "FeKa": (1.936041, 1.939973),
    "CoKa": (1.788996, 1.792835),
    "CuKa": (1.540593, 1.544427),
    "MoKa": (0.709317, 0.713607),
    "AgKa": (0.559422, 0.563813),
}
"""K-alpha 1 and 2 of the usual anodes, Angstrom: Hölzer et al. (1997), Deslattes et al. (2003)."""
SECOND_LINE = 0.5
"""Intensity of K-alpha 2 over that of K-alpha 1."""


@dataclass(frozen=True)
class Radiation:
    """Wavelengths in Angstrom with their relative intensities, and how polarised the rays are.

    Parameters
    ----------
    wavelengths : tuple of float
        Angstrom, the strongest first.
    intensities : tuple of float
        Relative to the first.
    polarisation : float
        P of the factor ``1 + P cos^2(2 theta)``: 1 for an X-ray tube, less behind a monochromator crystal
        (``cos^2(2 theta_m)``), 0 for a synchrotron with a vertical scattering plane or data corrected for it.
    """

    wavelengths: tuple[float, ...]
    intensities: tuple[float, ...] = (1.0,)
    polarisation: float = 0.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if len(self.wavelengths) != len(self.intensities) or not self.wavelengths:
            raise ValueError(f"radiation needs an intensity for each wavelength; got {self}")
        if not all(0.05 < wavelength < 5.0 for wavelength in self.wavelengths):
            raise ValueError(f"wavelengths are in Angstrom, between 0.05 and 5; got {self.wavelengths}")

    @classmethod
    def of(cls, value: str | float | Radiation) -> Radiation:
        """Radiation of an anode ("CuKa", "CuKa1" for one line), or of one wavelength in Angstrom.

        Raises
        ------
        ValueError
            For an unknown anode: the sentence lists those known.
        """
        if isinstance(value, Radiation):
            return value
        if not isinstance(value, str):
            return cls((float(value),))
        lines = EMISSION.get(value.removesuffix("1"))
        if lines is None:
            raise ValueError(
                f"unknown radiation {value!r}: give a wavelength in Angstrom, such as 1.5406, or one of "
                f"{', '.join(EMISSION)} (with 1 at the end for K-alpha 1 alone)"
            )
        if value.endswith("1"):
            return cls(lines[:1], polarisation=1.0)
        return cls(lines, (1.0, SECOND_LINE), polarisation=1.0)

    @property
    def energy(self) -> float:
        """Of the first line, eV."""
        return 12398.42 / self.wavelengths[0]

    def lorentz_polarisation(self, q: Array) -> Array:
        """Lorentz and polarisation factors of a flat powder at 1/d = q."""
        sine = np.minimum(0.5 * self.wavelengths[0] * q, 0.9999)
        theta = np.arcsin(sine)
        return np.asarray((1.0 + self.polarisation * np.cos(2.0 * theta) ** 2) / (sine**2 * np.cos(theta)))
