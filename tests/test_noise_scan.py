"""Evidence at every noise level from one run, against closed forms and runs at one level."""

import numpy as np
import pytest
from problems import NAGATA_NORMALISER, level, line, nagata_2012, nagata_candidates, normal_to_sample
from scipy import stats

from bluesky_bayes import Candidates, Dataset, Gaussian, Model, Settings, noise_scan, select
from bluesky_bayes.dataset import Array
from bluesky_bayes.model import Slot, Term


def straight_lines() -> tuple[Dataset, Candidates]:
    """A line through zero and one with an offset, normal priors."""
    x = np.linspace(-1, 1, 41)
    data = Dataset(x, 0.8 * x + 0.3 + 0.2 * np.random.default_rng(3).standard_normal(41))
    slope, offset = Term("line", line, (Slot("slope"),)), Term("level", level, (Slot("offset"),))
    models = (
        Model("through zero", (slope,), {"slope": normal_to_sample(0, 2)}),
        Model("with offset", (slope, offset), dict.fromkeys(("slope", "offset"), normal_to_sample(0, 2))),
    )
    return data, Candidates(models)


def closed_form(data: Dataset, columns: list[Array], sigma: float) -> float:
    """Log evidence of a linear model with normal priors of width 2."""
    basis = np.stack(columns, axis=1)
    covariance = 4.0 * basis @ basis.T + sigma**2 * np.eye(data.n)
    return float(stats.multivariate_normal(np.zeros(data.n), covariance).logpdf(data.y))


def test_a_straight_line_has_its_closed_form_at_every_noise() -> None:
    data, candidates = straight_lines()
    scan = noise_scan(data, candidates, seed=0, error=0.05)
    for i, columns in enumerate(([data.x], [data.x, np.ones(data.n)])):
        expected = np.array([closed_form(data, columns, s) for s in scan.sigma])
        errors = scan.log_evidence_error[i]
        assert errors.max() < 0.15
        assert np.all(np.abs(scan.log_evidence[i] - expected) < 4 * errors + 0.01)
        assert scan.sigmas[i] == pytest.approx(scan.sigma[np.argmax(expected)], rel=0.1)
    assert scan.best[0] == "with offset"
    assert scan.probabilities[1] > 0.99
    assert not scan.warnings


def test_model_and_noise_of_the_2012_spectrum_are_found_together() -> None:
    data, candidates = nagata_2012(), nagata_candidates(range(2, 4))
    scan = noise_scan(data, candidates, seed=0, error=0.15)
    name, sigma = scan.best
    assert name == "3 peaks"
    assert sigma == pytest.approx(0.1, rel=0.1)
    at = int(np.argmin(np.abs(scan.sigma - 0.1)))
    fixed = select(data, candidates, Gaussian(float(scan.sigma[at])), seed=1)
    gap = np.abs(scan.log_evidence[:, at] - fixed.log_evidence)
    assert np.all(gap < 4 * np.hypot(scan.log_evidence_error[:, at], fixed.log_evidence_error) + 0.02)
    assert abs(scan.log_evidence[1, at] + 172.25 + NAGATA_NORMALISER) < 5.0


def test_a_range_that_misses_the_noise_says_so() -> None:
    data, candidates = straight_lines()
    scan = noise_scan(data, candidates, sigma=(0.5, 2.0))
    assert "the best noise is the smallest of the scan, 0.5" in scan.warnings[0]


def test_what_speaks_against_the_sampling_is_told() -> None:
    data, candidates = nagata_2012(), nagata_candidates(range(2, 4))
    scan = noise_scan(data, candidates, settings=Settings(sweeps=100, longest=100, chains=4))
    assert any("3 peaks: only" in warning and "round trips" in warning for warning in scan.warnings)
    assert not any(warning.startswith("2 peaks") for warning in scan.warnings)


def test_no_range_is_refused_in_words() -> None:
    data, candidates = straight_lines()
    with pytest.raises(ValueError, match="sigma from 2 to 1; give the smallest first, both positive"):
        noise_scan(data, candidates, sigma=(2.0, 1.0))
    with pytest.raises(ValueError, match=r"is a range, \(smallest, largest\); got 0.1"):
        noise_scan(data, candidates, sigma=0.1)  # type: ignore[arg-type]
    flat = Dataset(data.x, np.zeros(data.n))
    with pytest.raises(ValueError, match="neighbouring points do not scatter"):
        noise_scan(flat, candidates)


def test_the_picture_has_a_curve_for_each_model() -> None:
    scan = noise_scan(*straight_lines())
    (axes,) = scan.plot().axes
    labels = axes.get_legend_handles_labels()[1]
    assert [label.split(":")[0] for label in labels] == list(scan.names)
