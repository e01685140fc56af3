"""Precision on demand, going on, two samplers and two estimators: each against what is known."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from problems import (
    BOX_LOG_Z,
    NAGATA_FREE_ENERGY,
    NAGATA_NORMALISER,
    box,
    nagata_2012,
    nagata_candidates,
    ten_peaks,
)

from bluesky_bayes import Dataset, Gaussian, Selection, jobs, select, select_iter, select_many
from bluesky_bayes.evidence import NOTHING, UNKNOWN, Evidence, bridged, doubted, effective_size, evidence
from bluesky_bayes.families import peaks
from bluesky_bayes.jobs import Job

KNOWN = Gaussian(0.1)


def rocking_curve(seed: int, shift: float = 0.0) -> Dataset:
    """One peak, known noise."""
    x = np.linspace(-3, 3, 121)
    noise = 0.1 * np.random.default_rng(seed).standard_normal(x.size)
    return Dataset(x, 0.3 + 2.0 * np.exp(-0.5 * ((x - shift) / 0.4) ** 2) + noise)


def same(a: Selection, b: Selection) -> bool:
    """Whether two answers hold the same bits."""
    return np.array_equal(a.log_evidence, b.log_evidence) and all(
        np.array_equal(p.draws[name], q.draws[name])
        for p, q in zip(a.posteriors, b.posteriors, strict=True)
        for name in p.draws
    )


@pytest.mark.parametrize("count", [1, 2, 3])
def test_sequential_monte_carlo_finds_the_evidence_of_peaks_in_a_box(count: int) -> None:
    selection = select(*box(count), KNOWN, seed=1, sampler="smc")
    assert selection.sampler == "smc"
    assert any("sequential Monte Carlo" in note for note in selection.notes)
    assert selection.trustworthy, selection.warnings
    assert selection.log_evidence_error[0] <= 0.1
    assert abs(selection.log_evidence[0] - BOX_LOG_Z[count]) < 4 * math.hypot(selection.log_evidence_error[0], 0.007)


@pytest.mark.parametrize("sampler", ["auto", "smc"])
@pytest.mark.parametrize("seed", [0, 1, 6, 8])
def test_peaks_that_overlap_are_sampled_along_their_ridge(seed: int, sampler: str) -> None:
    """Steps of one parameter left parts of it out: with warnings, and by clouds 0.4 nats of it without."""
    selection = select(*box(3), KNOWN, seed=seed, sampler=sampler)
    assert selection.trustworthy, selection.warnings
    stated = math.hypot(selection.log_evidence_error[0], 0.007)
    assert abs(selection.log_evidence[0] - BOX_LOG_Z[3]) < 4 * stated < 0.42


def test_clouds_that_scatter_are_no_surer_by_the_bridge() -> None:
    best = select(*box(3), KNOWN, seed=2, sampler="smc").best
    assert best.diagnostics.bridge is not None
    assert best.log_evidence_error >= best.diagnostics.ladder[1]


def test_the_best_model_goes_on_until_its_chains_agree_on_every_parameter() -> None:
    data, candidates = nagata_2012(), nagata_candidates(range(5, 6))
    cut_off, whole = (select(data, candidates, KNOWN, seed=3, error=0.5, budget=budget) for budget in (1e-6, None))
    assert any("disagree on a parameter" in warning for warning in cut_off.warnings)
    assert whole.best.diagnostics.r_hat <= 1.1
    assert whole.trustworthy, whole.warnings


def test_independent_draws_give_evidence_and_posterior_of_what_is_determined() -> None:
    data, candidates = nagata_2012(), nagata_candidates(range(0, 5))
    quick, slow = (select(data, candidates, KNOWN, seed=2, sampler=sampler) for sampler in ("auto", "exchange"))
    assert [p.diagnostics.sampler for p in quick.posteriors[1:]] == [*["independence"] * 3, "exchange"]
    assert any(
        note.startswith("sampled by independent draws from a fitted mixture (1 peak, 2 peaks, 3 peaks); replica")
        for note in quick.notes
    )
    for a, b in zip(quick.posteriors[1:4], slow.posteriors[1:4], strict=True):
        error = math.hypot(a.log_evidence_error, b.log_evidence_error)
        assert abs(a.log_evidence - b.log_evidence) < 4 * error
        assert a.diagnostics.ess > b.diagnostics.ess
        for name, summary in a.parameters.items():
            other, few = b.parameters[name], min(a.diagnostics.ess, b.diagnostics.ess)
            assert abs(summary.mean - other.mean) < 6 * other.sd / math.sqrt(few)
            assert summary.sd == pytest.approx(other.sd, rel=0.25)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_the_effective_size_of_chains_is_that_of_their_autocorrelation(correlation: float) -> None:
    steps = np.random.default_rng(0).standard_normal((20, 8, 400))
    chains = steps.copy()
    for t in range(1, 400):
        chains[..., t] = correlation * chains[..., t - 1] + math.sqrt(1 - correlation**2) * steps[..., t]
    expected = 3200 * (1 - correlation) / (1 + correlation)
    assert np.mean(effective_size(chains)) == pytest.approx(expected, rel=0.15)
    assert effective_size(np.ones((8, 400))) == 3200


def test_chains_that_disagree_are_worth_few_draws() -> None:
    rng = np.random.default_rng(0)
    apart = rng.standard_normal((50, 8, 400)) + 0.3 * rng.standard_normal((50, 8, 1))
    assert np.median(effective_size(apart)) == pytest.approx(8 * 1.09 / 0.09, rel=0.3)


def test_the_effective_size_of_clouds_is_that_by_which_means_scatter() -> None:
    x, rng = np.linspace(-3, 3, 101), np.random.default_rng(1)
    y = 2 * np.exp(-0.5 * ((x + 0.8) / 0.3) ** 2) + 0.6 * np.exp(-0.5 * ((x - 0.1) / 0.3) ** 2)
    data, three = Dataset(x, y + 0.1 * rng.standard_normal(x.size)), peaks(counts=[3])
    found = [select(data, three, KNOWN, seed=s, sampler="smc", error=0.5).posteriors[0] for s in range(16)]
    means, variances = np.array([[(v.mean(), v.var()) for v in one.draws.values()] for one in found]).T
    scattered = variances.mean(axis=1) / means.var(axis=1, ddof=1)
    stated = np.mean([posterior.diagnostics.ess for posterior in found])
    assert 0.1 * scattered.min() < stated < 2.0 * scattered.min()


def test_errors_of_independent_draws_are_their_spread() -> None:
    data, candidates = box(2)
    found = [select(data, candidates, KNOWN, seed=seed).posteriors[0] for seed in range(20)]
    drawn = [p for p in found if p.diagnostics.sampler == "independence"]
    assert len(drawn) > 15
    ratio = np.array([(p.log_evidence - BOX_LOG_Z[2]) / math.hypot(p.log_evidence_error, 0.003) for p in drawn])
    assert 0.6 < math.sqrt(np.mean(ratio**2)) < 1.5


def test_both_samplers_agree_on_ten_peaks() -> None:
    found = [select(*ten_peaks(), KNOWN, seed=2, error=0.15, sampler=name) for name in ("exchange", "smc")]
    log_z, errors = (np.array([getattr(s, name)[0] for s in found]) for name in ("log_evidence", "log_evidence_error"))
    assert np.all(errors < 0.25)
    assert abs(log_z[1] - log_z[0]) < 0.3 + 2.0 * math.hypot(*errors)


def test_particles_alone_from_the_prior_are_within_their_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a mixture near the posterior the clouds go all the way."""
    monkeypatch.setattr(jobs, "NEAR", 0.0)
    selection = select(nagata_2012(), nagata_candidates(range(1, 4)), KNOWN, seed=0, sampler="smc")
    for posterior, free_energy in zip(selection.posteriors, NAGATA_FREE_ENERGY.values(), strict=False):
        log_z, error = posterior.diagnostics.ladder
        assert error < 0.6
        assert abs(log_z + free_energy + NAGATA_NORMALISER) < 4 * math.hypot(error, 0.02)


def test_a_smaller_error_is_reached_when_it_is_wanted() -> None:
    data, candidates = nagata_2012(), nagata_candidates(range(3, 5))
    coarse = select(data, candidates, KNOWN, seed=0, error=1.0)
    fine = select(data, candidates, KNOWN, seed=0, error=0.04)
    assert fine.log_evidence_error.max() <= 0.04 < coarse.log_evidence_error.max()
    for error in (-1.0, 0.0):
        with pytest.raises(ValueError, match="error must be positive"):
            select(data, candidates, KNOWN, error=error)


@pytest.mark.parametrize(
    ("error", "sampler", "sweeps"), [(0.1, "auto", 300), (0.12, "auto", 250), (1.0, "auto", 200), (1.0, "smc", 304)]
)
def test_the_first_round_is_a_third_shorter_at_most_where_less_is_wanted(
    error: float, sampler: str, sweeps: int
) -> None:
    selection = select(nagata_2012(), nagata_candidates(range(1, 2)), KNOWN, seed=0, error=error, sampler=sampler)
    assert len(selection.standings[0].infos[0].misfit) == sweeps


def test_time_that_is_up_ends_the_rounds() -> None:
    selection = select(nagata_2012(), nagata_candidates(range(3, 5)), KNOWN, error=0.001, budget=0.01)
    assert len(selection.standings[0].infos[0].misfit) == selection.settings.sweeps
    with pytest.raises(ValueError, match="budget must be a positive number of seconds"):
        select(nagata_2012(), nagata_candidates(range(1)), KNOWN, budget=-1.0)


@pytest.mark.parametrize("sampler", ["auto", "exchange", "smc"])
def test_an_answer_goes_on_where_it_stood_also_after_it_was_saved(sampler: str, tmp_path: Path) -> None:
    data, candidates = nagata_2012(), nagata_candidates(range(3, 4))
    first = select(data, candidates, KNOWN, seed=3, error=1.0, sampler=sampler)
    first.save(tmp_path / "answer.nc")
    better = first.refine(0.012)
    again = Selection.load(tmp_path / "answer.nc").refine(0.012, threads=1)
    assert better.log_evidence_error.max() <= 0.012 < first.log_evidence_error.max()
    assert same(better, again)
    for before, after in zip(first.standings, better.standings, strict=True):
        np.testing.assert_array_equal(after.infos[0].misfit[: len(before.infos[0].misfit)], before.infos[0].misfit)
    assert same(better.refine(1.0), better)
    with pytest.raises(ValueError, match="came without its chains"):
        next(select_iter(data, candidates, KNOWN)).refine()
    earlier = [state._replace(strides=np.zeros((len(state.steps), 1, 1))) for state in first.standings[-1].states]
    standings = (*first.standings[:-1], replace(first.standings[-1], states=tuple(earlier)))
    with pytest.raises(ValueError, match="come from an earlier version, which moved them in another way"):
        replace(first, standings=standings).refine(0.012)


@pytest.mark.parametrize("sampler", ["auto", "exchange", "smc"])
def test_threads_and_company_change_no_bit(sampler: str) -> None:
    data = [rocking_curve(seed) for seed in range(4)]
    candidates = peaks(counts=range(0, 3))
    alone = [select(d, candidates, KNOWN, seed=5, sampler=sampler, threads=1) for d in data]
    together = select_many(data, candidates, KNOWN, seed=5, sampler=sampler, threads=2)
    assert all(same(a, b) for a, b in zip(alone, together, strict=True))


def test_an_answer_is_the_same_alone_and_among_a_hundred() -> None:
    data = [rocking_curve(seed) for seed in range(100)]
    candidates = peaks(counts=range(0, 2))
    together = select_many(data, candidates, KNOWN, seed=6)
    for k in (0, 15, 16, 99):
        assert same(select(data[k], candidates, KNOWN, seed=6), together[k])


def test_an_answer_grows_from_a_first_look_to_what_select_gives() -> None:
    data, candidates = nagata_2012(), nagata_candidates(range(0, 4))
    answers = list(select_iter(data, candidates, KNOWN, seed=1, error=0.02))
    look, last = answers[0], answers[-1]
    assert not look.trustworthy
    assert "first look" in look.verdict
    assert all(p.diagnostics.look for p in look.posteriors)
    gaps = np.abs(look.log_evidence - last.log_evidence)
    assert np.all(gaps < 5 * np.hypot(look.log_evidence_error, last.log_evidence_error) + 1e-3)
    assert all(b.log_evidence_error.max() <= a.log_evidence_error.max() for a, b in pairwise(answers))
    assert same(last, select(data, candidates, KNOWN, seed=1, error=0.02))


@pytest.mark.parametrize("shift", [0.0, 0.02, 0.5])
def test_an_earlier_answer_shortens_the_way_and_leaves_the_evidence(shift: float) -> None:
    """The next scan of a series, and one that has nothing to do with the last."""
    candidates = peaks(counts=range(0, 3))
    before = select(rocking_curve(1), candidates, KNOWN, seed=0)
    data = rocking_curve(2, shift)
    cold, warm = (select(data, candidates, KNOWN, seed=seed, start=start) for seed, start in ((1, None), (2, before)))
    errors = np.hypot(cold.log_evidence_error, warm.log_evidence_error)
    assert np.all(np.abs(warm.log_evidence - cold.log_evidence) < 4 * errors + 1e-3)
    assert warm.trustworthy, warm.warnings


def test_an_earlier_answer_leaves_the_evidence_of_the_oracles() -> None:
    data, noise = nagata_2012(), np.random.default_rng(4).standard_normal(301)
    other = Dataset(data.x, data.y + 0.05 * noise)
    candidates = nagata_candidates(range(1, 5))
    before = select(other, candidates, Gaussian(0.112), seed=0)
    warm = select(data, candidates, KNOWN, seed=1, start=before)
    expected = [-NAGATA_FREE_ENERGY[k] - NAGATA_NORMALISER for k in range(1, 5)]
    errors = np.hypot(warm.log_evidence_error, [0.01, 0.01, 0.02, 0.1])
    assert np.all(np.abs(warm.log_evidence - expected) < 4 * errors)


def test_both_estimates_are_kept_and_the_surer_one_is_reported() -> None:
    selections = [
        select(nagata_2012(), nagata_candidates(range(3, 4)), KNOWN, seed=0, sampler=s) for s in ("auto", "exchange")
    ]
    for posterior in (selection.posteriors[0] for selection in selections):
        diagnostics = posterior.diagnostics
        assert diagnostics.bridge is not None
        best = min(diagnostics.ladder, diagnostics.bridge, key=lambda estimate: estimate[1])
        assert (posterior.log_evidence, posterior.log_evidence_error) == pytest.approx(best)
        assert not diagnostics.estimates_differ


def test_the_bridges_error_notices_where_no_mixture_fits() -> None:
    """Over-fitted models: the bridge scatters more than the ladder, and its stated errors say so."""
    deviations, stated = [], {3: [], 5: []}  # type: ignore[var-annotated]
    for seed in range(5):
        selection = select(
            nagata_2012(), nagata_candidates(range(3, 6, 2)), KNOWN, seed=seed, error=1.0, sampler="exchange"
        )
        for count, posterior in zip((3, 5), selection.posteriors, strict=True):
            bridge = posterior.diagnostics.bridge
            assert bridge is not None
            stated[count].append(bridge[1])
            if count == 5:
                deviations.append((bridge[0] + 174.31 + NAGATA_NORMALISER) / bridge[1])
    assert min(stated[5]) > 1.5 * max(stated[3])
    assert np.sqrt(np.mean(np.square(deviations))) < 2.0


def test_a_bridge_from_many_draws_of_a_wide_reference_is_right_and_surer_than_one_from_few() -> None:
    """A narrow normal posterior in a standard normal reference, whose evidence is known."""
    sd, middle, rng = 0.02, 0.5, np.random.default_rng(1)

    def energy(x: np.ndarray) -> np.ndarray:
        return 0.5 * ((x - middle) / sd) ** 2

    truth = 0.5 * np.log(sd**2 / (1 + sd**2)) - 0.5 * middle**2 / (1 + sd**2)
    posterior_sd = sd / np.sqrt(1 + sd**2)
    found: dict[int, list[Evidence]] = {800: [], 4000: []}
    for size, several in found.items():
        for _ in range(50):
            chains = middle / (1 + sd**2) + posterior_sd * rng.standard_normal((4, 200))
            several.append(bridged(energy(rng.standard_normal(size)), energy(chains)))
        scores = np.array([(one.log_z - truth) / one.error for one in several])
        assert abs(scores.mean()) < 0.6
        assert 0.7 < scores.std() < 1.4
    few, many = (np.median([one.error for one in several]) for several in found.values())
    assert many < 0.6 * few


@pytest.mark.parametrize(("n_parameters", "n_sweeps"), [(1, 100), (1, 200), (4, 100), (4, 1000)])
def test_a_bridge_from_a_reference_that_is_nearly_the_posterior_is_right(n_parameters: int, n_sweeps: int) -> None:
    """Where there are more draws of the reference than of the posterior, the ratio is outside the range of energies."""
    rng = np.random.default_rng(2)
    deviations, stated = [], []
    for _ in range(50):
        wide = rng.random(4000) < 0.1
        drawn = rng.standard_normal((4000, n_parameters)) * np.where(wide, 1.5, 1.2)[:, None]
        chains = rng.standard_normal((4, n_sweeps, n_parameters))

        def energy(z: np.ndarray) -> np.ndarray:
            square = np.sum(z * z, axis=-1)
            mixture = sum(w * sd**-n_parameters * np.exp(-0.5 * square / sd**2) for w, sd in ((0.9, 1.2), (0.1, 1.5)))
            total: np.ndarray = 0.5 * square + np.log(mixture)
            return total

        found = bridged(energy(drawn), energy(chains))
        deviations.append(found.log_z)
        stated.append(found.error)
    assert abs(np.mean(deviations)) < 4 * np.median(stated) / np.sqrt(50)
    assert 0.6 < np.std(deviations) / np.median(stated) < 1.5


def test_estimates_that_contradict_each_other_are_no_surer_than_half_their_difference() -> None:
    ladder, bridge = Evidence(10.0, 0.2, 0.0), Evidence(10.3, 0.1, 0.0)
    assert doubted(bridge, ladder) == bridge
    assert doubted(bridge._replace(log_z=13.0), ladder) == Evidence(13.0, 1.5, 0.0)
    assert doubted(ladder, UNKNOWN) == ladder
    assert doubted(ladder, bridge) == ladder
    assert doubted(ladder, bridge._replace(log_z=13.0)) == ladder._replace(error=max(ladder.error, 1.5))


def test_estimates_that_do_not_know_of_each_other_are_averaged_unless_they_contradict_each_other() -> None:
    def of_all(ladder: Evidence, particles: Evidence, bridge: Evidence, fitted: bool = False) -> Evidence:
        path = SimpleNamespace(start=SimpleNamespace(fitted=fitted))
        job = SimpleNamespace(ladder=ladder, particles=particles, bridge=bridge, path=path, sampler=jobs.EXCHANGE)
        return cast(Evidence, vars(Job)["evidence"].fget(job))

    ladder, particles = Evidence(10.0, 0.3, 0.01), Evidence(10.5, 0.4, 0.0)
    both, bridge = Evidence(10.18, 0.24, 0.01), Evidence(10.68, 0.18, 0.0)
    assert of_all(ladder, UNKNOWN, UNKNOWN) == ladder
    assert of_all(ladder, particles, UNKNOWN) == pytest.approx(both)
    assert of_all(ladder, particles._replace(log_z=8.0), UNKNOWN) == ladder
    # From the prior all three count, chains and bridge correlate by 0.2, and the gap is that of what counts most.
    shared = 0.64 * 0.18, 0.36 * 0.24
    error = np.sqrt(shared[0] ** 2 + shared[1] ** 2 + 2.0 * 0.2 * shared[0] * shared[1])
    assert of_all(ladder, particles, bridge) == pytest.approx((10.5, error, 0.0))
    assert of_all(ladder, particles, bridge._replace(error=0.32)) == pytest.approx((10.36, 4.0 * error / 3.0, 0.01))
    assert of_all(ladder, particles, bridge._replace(log_z=13.18)) == pytest.approx((13.18, 1.5, 0.0))
    # What is much less sure adds nothing but its own mistakes.
    sure = Evidence(10.3, 0.06, 0.0)
    assert of_all(ladder, particles, sure) == sure
    # A ladder from a mixture and the bridge share their cold end.
    assert of_all(ladder, UNKNOWN, bridge, fitted=True) == bridge
    assert of_all(ladder, UNKNOWN, bridge._replace(error=0.4), fitted=True) == ladder


def test_particles_on_the_way_from_the_prior_count_also_after_they_were_saved(tmp_path: Path) -> None:
    """Five peaks for three: no mixture is near."""
    first = select(nagata_2012(), nagata_candidates(range(5, 6)), KNOWN, seed=1, error=1.0)
    first.save(tmp_path / "answer.nc")
    loaded = Selection.load(tmp_path / "answer.nc")
    for selection in (first, loaded):
        (posterior,) = selection.posteriors
        diagnostics = posterior.diagnostics
        assert diagnostics.particles is not None
        assert posterior.log_evidence_error < min(diagnostics.ladder[1], diagnostics.particles[1])
        assert abs(diagnostics.ladder[0] - diagnostics.particles[0]) < 1.0
    better, again = first.refine(0.12), loaded.refine(0.12, threads=1)
    assert same(better, again)
    assert better.posteriors[0].diagnostics.particles == first.posteriors[0].diagnostics.particles
    assert abs(better.log_evidence[0] + 174.31 + NAGATA_NORMALISER) < 4 * 0.12


def test_an_evidence_between_neighbours_that_do_not_overlap_is_not_sure() -> None:
    rng = np.random.default_rng(0)
    for apart in (300.0, 3000.0):
        energies = [np.stack([apart + rng.standard_normal(200), rng.standard_normal(200)], axis=1) for _ in range(4)]
        found = evidence(np.array([0.0, 1.0]), energies)
        assert found.error > 0.5 * min(apart, NOTHING)


def test_what_is_too_large_is_refused_in_words() -> None:
    x = np.linspace(0, 1, 100_001)
    with pytest.raises(ValueError, match="has 100001 points, and at most 100000 can be analysed; rebin"):
        select(Dataset(x, x), peaks(counts=[1]), KNOWN)
    with pytest.raises(ValueError, match="'25 peaks' has 26 components, and at most 20 can be analysed"):
        select(rocking_curve(0), peaks(counts=[25]), KNOWN)
