"""Simulated measurements are what they say they are."""

import numpy as np
import pytest
from ophyd.sim import SynAxis

from bluesky_bayes.simulated import AMPLITUDES, CENTERS, detector, spectrum, three_peaks


def test_three_peaks_stand_where_they_should() -> None:
    assert three_peaks(CENTERS) == pytest.approx(AMPLITUDES, rel=0.05)
    assert three_peaks(0.0) < 1e-6
    assert three_peaks(np.zeros((2, 3))).shape == (2, 3)


def test_the_detector_sees_the_peaks_where_the_motor_stands() -> None:
    motor = SynAxis(name="motor", value=CENTERS[1])
    detector = spectrum(motor, noise=0.0)
    detector.trigger()
    assert detector.get() == pytest.approx(float(three_peaks(CENTERS[1])))
    assert detector.hints == {"fields": ["spectrum"]}


def test_the_noise_is_that_of_its_seed() -> None:
    def readings(seed: int) -> list[float]:
        detector = spectrum(SynAxis(name="motor"), noise=0.1, seed=seed)
        values = []
        for _ in range(500):
            detector.trigger()
            values.append(detector.get())
        return values

    assert readings(1) == readings(1) != readings(2)
    # The standard deviation of 500 draws has a relative error of 1 / sqrt(1000).
    assert np.std(readings(1)) == pytest.approx(0.1, rel=4 / np.sqrt(1000))


def test_a_detector_counts_where_no_noise_is_given() -> None:
    motor = SynAxis(name="motor", value=2.0)
    counter = detector(motor, "counter", lambda x: 100.0 * x)
    readings = []
    for _ in range(400):
        counter.trigger()
        readings.append(counter.get())
    assert all(reading == int(reading) for reading in readings)
    assert np.mean(readings) == pytest.approx(200.0, abs=4 * np.sqrt(200.0 / 400))
    assert counter.hints == {"fields": ["counter"]}
