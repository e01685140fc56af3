"""What is done to points before a model sees them, and that their noise goes along."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
from event_model import compose_run
from hypothesis import given, settings
from hypothesis import strategies as st

from bluesky_bayes import Analysis, Gaussian, Poisson
from bluesky_bayes.callbacks.runs import CollectedRun, NothingToAnalyseError, collect, dataset_of, datasets_of
from bluesky_bayes.dataset import Dataset
from bluesky_bayes.preparation import Image, Level, Mask, Points, Preparation, Quantity, Rebin, prepare

RNG = np.random.default_rng(0)
DRAWS = 20_000


def run_of(streams: Mapping[str, Mapping[str, Any]], scanned: str = "motor", **metadata: Any) -> CollectedRun:
    """A run with these streams, fields and values."""
    run = compose_run(metadata={"hints": {"dimensions": [[[scanned], "primary"]]}, **metadata})
    documents: list[tuple[str, Any]] = [("start", run.start_doc)]
    for stream, fields in streams.items():
        keys = {
            name: {"source": "SIM", "dtype": "array" if np.ndim(v[0]) else "number", "shape": list(np.shape(v[0]))}
            for name, v in fields.items()
        }
        bundle = run.compose_descriptor(
            name=stream, data_keys=keys, hints={"det": {"fields": ["det"]}}, object_keys={"det": list(keys)}
        )
        documents.append(("descriptor", bundle.descriptor_doc))
        for row in zip(*fields.values(), strict=True):
            data = dict(zip(fields, row, strict=True))
            documents.append(("event", bundle.compose_event(data=data, timestamps=dict.fromkeys(data, 0.0))))
    return collect([*documents, ("stop", run.compose_stop())])


def analysis(preparation: Preparation, **options: Any) -> Analysis:
    return Analysis(fakes.CANDIDATES, preparation=preparation, **{"y": "det", **options})


def scan(**fields: Any) -> CollectedRun:
    n = len(next(iter(fields.values())))
    return run_of({"primary": {"motor": list(np.arange(float(n))), **fields}})


def of(run: CollectedRun, preparation: Preparation, **options: Any) -> Dataset:
    return dataset_of(run, analysis(preparation, **options))


def sigma_of(data: Dataset) -> np.ndarray[Any, Any]:
    assert data.sigma is not None
    return data.sigma


def spread(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(np.std(values, axis=0))


def test_a_monitors_own_noise_is_carried_into_the_rate() -> None:
    y, m = np.array([400.0, 900.0, 2500.0]), np.array([250.0, 1000.0, 500.0])
    data = of(scan(det=y, mon=m), Preparation(counts=True, monitor=Level("mon", noise="counts")))
    assert np.allclose(data.y, y / m)
    assert np.allclose(sigma_of(data) ** 2, y / m**2 + y**2 * m / m**4)
    rates = RNG.poisson(y, (DRAWS, 3)) / RNG.poisson(m, (DRAWS, 3))
    assert np.allclose(sigma_of(data), spread(rates), rtol=0.05)
    assert not data.counts and data.origin.y == "det / mon"


def test_a_monitor_without_noise_only_divides() -> None:
    data = of(scan(det=[100.0, 400.0], mon=[10.0, 20.0]), Preparation(counts=True, monitor=Level("mon", scale=0.1)))
    assert np.allclose(data.y, [100.0, 200.0]) and np.allclose(sigma_of(data), [10.0, 10.0])


def test_no_counts_have_the_variance_of_one_and_a_note_says_what_is_better() -> None:
    data = of(scan(det=[0.0, 400.0], mon=[10.0, 20.0]), Preparation(counts=True, monitor=Level("mon", noise="counts")))
    assert sigma_of(data)[0] == 0.1
    assert any(
        "fewer than 10 counts" in note and "noise=Poisson() with the monitor as exp" in note for note in data.notes
    )


def test_dark_and_background_are_subtracted_with_their_noise() -> None:
    y, dark, background = np.array([500.0, 800.0]), np.array([100.0, 50.0]), np.array([64.0, 36.0])
    asked = Preparation(
        counts=True, dark=Level("dark", noise="counts", scale=2.0), background=Level("bg", noise="counts")
    )
    data = of(scan(det=y, dark=dark, bg=background), asked)
    assert np.allclose(data.y, y - 2 * dark - background)
    draws = [RNG.poisson(mean, (DRAWS, 2)) for mean in (y, dark, background)]
    assert np.allclose(sigma_of(data), spread(draws[0] - 2.0 * draws[1] - draws[2]), rtol=0.05)


def test_an_absorption_of_counts_has_the_noise_of_both_intensities() -> None:
    y, i0 = np.array([4000.0, 900.0]), np.array([9000.0, 2500.0])
    data = of(scan(det=y, before=i0), Preparation(counts=True), i0="before")
    assert np.allclose(data.y, np.log(i0 / y))
    draws = np.log(RNG.poisson(i0, (DRAWS, 2)) / RNG.poisson(y, (DRAWS, 2)))
    assert np.allclose(sigma_of(data), spread(draws), rtol=0.05)


def test_everything_at_once_agrees_with_a_monte_carlo() -> None:
    y, m, d = np.full(8, 900.0), np.full(8, 400.0), np.full(8, 100.0)
    asked = Preparation(
        counts=True, dark=Level("d", noise="counts"), monitor=Level("m", noise="counts"), rebin=Rebin(points=4)
    )
    data = of(scan(det=y, m=m, d=d), asked)
    draws = [RNG.poisson(mean, (DRAWS, 2, 4)).sum(axis=2) for mean in (900.0, 400.0, 100.0)]
    rates = (draws[0] - draws[2]) / draws[1]
    assert np.allclose(data.y, 2.0) and data.x.tolist() == [1.5, 5.5]
    assert np.allclose(sigma_of(data), spread(rates), rtol=0.05)
    assert np.allclose(np.mean(rates), data.y, rtol=0.01)


def test_the_pattern_of_another_stream_is_subtracted_as_its_mean() -> None:
    dark = RNG.poisson(50.0, (40, 6)).astype(float)
    streams = {
        "dark": {"det": dark.tolist()},
        "primary": {"motor": [0.0, 1.0], "det": [[500.0] * 6, [600.0] * 6]},
    }
    for noise, variance in (("counts", dark.sum(axis=0) / 40**2), ("scatter", dark.var(axis=0, ddof=1) / 40)):
        first, second = datasets_of(
            run_of(streams), analysis(Preparation(counts=True, dark=Level(stream="dark", noise=noise)))
        )
        assert np.allclose(first.y, 500.0 - dark.mean(axis=0)) and second.origin.events == (2,)
        assert np.allclose(sigma_of(first) ** 2, 500.0 + variance)
    (both,) = datasets_of(
        run_of(streams), analysis(Preparation(counts=True, dark=Level(stream="dark", noise="counts")), patterns="sum")
    )
    assert np.allclose(both.y, 1100.0 - 2 * dark.mean(axis=0))
    assert np.allclose(sigma_of(both) ** 2, 1100.0 + 4 * dark.sum(axis=0) / 40**2)


def test_an_error_that_all_points_share_is_no_part_of_their_own() -> None:
    streams = {"dark": {"det": [9.0, 11.0, 10.0]}, "primary": {"motor": [0.0, 1.0], "det": [100.0, 400.0]}}
    data = of(run_of(streams), Preparation(counts=True, dark=Level(stream="dark", noise="scatter")))
    assert data.y.tolist() == [90.0, 390.0] and sigma_of(data).tolist() == [10.0, 20.0]
    assert any("the error of the dark is the same for all points" in note for note in data.notes)
    one = run_of({"primary": {"motor": [0.0], "det": [[100.0, 400.0]], "mon": [50.0]}})
    data = of(one, Preparation(counts=True, monitor=Level("mon", noise="counts")))
    assert sigma_of(data).tolist() == [0.2, 0.4]
    assert any("the amplitudes in the models takes it up" in note for note in data.notes)


def test_noise_that_cannot_be_carried_is_said() -> None:
    data = of(scan(det=[1.0, 2.0], bg=[0.1, 0.1]), Preparation(background=Level("bg", sigma=0.1)))
    assert data.sigma is None
    assert any("not carried on, since that of y is unknown: say counts=True" in note for note in data.notes)


def test_a_field_may_hold_the_uncertainty_of_a_level() -> None:
    run = scan(det=[10.0, 20.0], err=[0.3, 0.4], bg=[1.0, 2.0], bg_err=[0.4, 0.3])
    data = of(run, Preparation(background=Level("bg", sigma="bg_err")), sigma="err")
    assert data.y.tolist() == [9.0, 18.0] and np.allclose(sigma_of(data), [0.5, 0.5])


def test_counts_less_their_dark_are_divided_by_their_time() -> None:
    asked = Preparation(counts=True, dark=Level("dark", noise="counts"), rebin=Rebin(points=2))
    data = of(scan(det=[90.0, 110, 400, 400], dark=[40.0, 60, 0, 0], s=[1.0, 3.0, 1.0, 1.0]), asked, exposure="s")
    assert data.y.tolist() == [25.0, 400.0] and data.origin.y == "det / s" and data.exposure is None
    assert np.allclose(sigma_of(data), np.sqrt([300.0, 800.0]) / [4.0, 2.0])


def test_bins_of_counts_add_and_the_model_stays_a_rate_a_channel() -> None:
    data = of(scan(det=[1.0, 2, 3, 4, 5]), Preparation(rebin=Rebin(points=2)), noise=Poisson())
    assert data.counts and data.y.tolist() == [3.0, 7.0] and data.x.tolist() == [0.5, 2.5]
    assert data.exposure is not None and data.exposure.tolist() == [2.0, 2.0]
    assert "the last 1 of 5 points do not fill a bin of 2 and are left out" in data.notes
    timed = of(scan(det=[1.0, 2, 3, 4], s=[1.0, 3.0, 1.0, 1.0]), Preparation(rebin=Rebin(points=2)), noise=Poisson(),
               exposure="s")  # fmt: skip
    assert timed.exposure is not None and timed.exposure.tolist() == [4.0, 2.0]
    assert timed.x.tolist() == [0.75, 2.5]


def test_counts_are_counts_without_saying_so_twice() -> None:
    data = of(scan(det=[1.0, 2, 3, 4]), Preparation(counts=True))
    assert data.counts and data.sigma is None
    merged = of(scan(det=[1.0, 2, 3, 4]), Preparation(counts=True, rebin=Rebin(edges=(-0.5, 0.5, 3.5))))
    assert merged.counts and merged.y.tolist() == [1.0, 9.0]
    assert merged.exposure is not None and merged.exposure.tolist() == [1.0, 3.0]


def test_bins_of_measured_values_are_means_weighted_by_their_uncertainty() -> None:
    y, sigma = np.array([1.0, 2.0, 4.0, 8.0]), np.array([0.1, 0.2, 0.1, 0.3])
    data = of(scan(det=y, err=sigma), Preparation(rebin=Rebin(width=2.0)), sigma="err")
    weights = 1 / sigma[:2] ** 2
    assert np.allclose(data.y[0], np.sum(weights * y[:2]) / weights.sum())
    assert np.allclose(data.x[0], np.sum(weights * np.arange(2)) / weights.sum())
    draws = y + sigma * RNG.standard_normal((DRAWS, 4))
    assert np.allclose(sigma_of(data)[0], np.std(draws[:, :2] @ weights / weights.sum()), rtol=0.05)


def test_bins_of_unequal_numbers_of_points_without_uncertainty_are_refused() -> None:
    run = scan(det=[1.0, 2.0, 3.0, 4.0, 5.0])
    assert of(run, Preparation(rebin=Rebin(points=2))).y.tolist() == [1.5, 3.5]
    with pytest.raises(
        ValueError, match=r"1 to 3 points would become one, .* name the field with sigma, say counts=True"
    ):
        of(run, Preparation(rebin=Rebin(edges=(0.0, 0.5, 3.5))))


def test_bins_leave_out_what_lies_outside_their_edges() -> None:
    data = of(scan(det=[1.0] * 10), Preparation(rebin=Rebin(edges=(2.0, 4.0, 6.0))), noise=Poisson())
    assert data.y.tolist() == [2.0, 3.0]  # the last edge belongs to its bin
    assert "5 of 10 points lie outside the bins and are left out" in data.notes
    with pytest.raises(ValueError, match="no bin holds any of the 10 points"):
        of(scan(det=[1.0] * 10), Preparation(rebin=Rebin(edges=(20.0, 40.0, 60.0))))


def test_points_at_the_same_x_become_one() -> None:
    run = run_of({"primary": {"motor": [0.0, 1.0, 0.0, 1.0], "det": [1.0, 10.0, 3.0, 30.0]}})
    counts = of(run, Preparation(repeats=True), noise=Poisson())
    assert counts.y.tolist() == [4.0, 40.0] and counts.exposure is not None and counts.exposure.tolist() == [2.0, 2.0]
    assert of(run, Preparation(repeats=True)).y.tolist() == [2.0, 20.0]
    assert "points at the same x are one: 4 became 2" in counts.notes


def test_masks_and_regions_leave_points_out_and_say_so() -> None:
    run = scan(det=[1.0, 2, 3, 4, 5, 6], bad=[0, 0, 1, 0, 0, 0])
    data = of(run, Preparation(mask=Mask((0,), ((4.5, 9.0),), "bad"), region=((0.0, 3.0),)))
    assert data.x.tolist() == [1.0, 3.0]
    assert data.notes[:2] == ("3 of 6 points are masked", "1 of 6 points lie outside the region")
    two = of(run, Preparation(region=((0.0, 1.0), (4.0, 5.0))))
    assert two.x.tolist() == [0.0, 1.0, 4.0, 5.0]
    with pytest.raises(ValueError, match=r"leave none of 6 points: 0 are masked and 6 outside .* x is from 0 to 5"):
        of(run, Preparation(region=(7.0, 8.0)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the mask names channel 6 and there are 6, counted from 0"):
        of(run, Preparation(mask=Mask((6,))))


def test_a_flag_of_any_repeat_masks_a_channel_of_their_sum() -> None:
    run = run_of({"primary": {"det": [[1.0, 2, 3], [4.0, 5, 6]], "bad": [[0, 1, 0], [0, 0, 0]]}}, scanned="time")
    data = of(run, Preparation(mask=Mask(field="bad")))
    assert data.y.tolist() == [5.0, 9.0]


def test_an_image_becomes_a_pattern_by_its_region_of_interest() -> None:
    frames = RNG.integers(0, 255, (2, 5, 6)).astype(np.uint8)
    image = Image(rows=(1, 4), columns=(2, 6))
    assert np.array_equal(image.pattern(frames), frames[:, 1:4, 2:6].sum(axis=(0, 1), dtype=int))
    assert np.array_equal(Image(sum="columns").pattern(frames[0]), frames[0].sum(axis=1, dtype=int))
    with pytest.raises(ValueError, match="the image has 6 columns and the region of interest ends at 7"):
        Image(columns=(0, 7)).pattern(frames)


@pytest.mark.parametrize("level", ["dark", "background", "monitor"])
def test_counts_that_would_be_none_are_refused_for_poisson_noise_with_what_to_do(level: str) -> None:
    with pytest.raises(
        ValueError, match=rf"with the {level} taken into y it is counts no more, .* or leave the noise out"
    ):
        analysis(Preparation(**{level: Level("other")}), noise=Poisson())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Level(), "give one of the two"),
        (lambda: Level("a", value=1.0), "give one of the two"),
        (lambda: Level("a", noise="loud"), "must be 'counts', 'scatter' or left out"),
        (lambda: Level("a", noise="counts", sigma=1.0), "its sigma or its noise"),
        (lambda: Level(value=1.0, noise="scatter"), "no events that scatter"),
        (lambda: Level(value=1.0, sigma=-1.0), "must not be negative"),
        (lambda: Level("a", scale=0.0), "leave the level out"),
        (lambda: Level(7), "must be a name"),  # type: ignore[arg-type]
        (lambda: Image(rows=(3, 3)), "no region"),
        (lambda: Image(rows=(0, 1.5)), "two whole numbers"),  # type: ignore[arg-type]
        (lambda: Image(sum="all"), "'rows' or 'columns'"),
        (lambda: Mask(channels=(-1,)), "whole numbers from 0 up"),
        (lambda: Mask(ranges=((2.0, 1.0),)), "low first"),
        (lambda: Rebin(), "give one of the three"),
        (lambda: Rebin(points=1), "from 2 up"),
        (lambda: Rebin(width=0.0), "must be positive"),
        (lambda: Rebin(edges=(1.0, 1.0, 2.0)), "three numbers that ascend"),
        (lambda: Preparation(region=("a", "b")), r"region must be \[low, high\]"),  # type: ignore[arg-type]
        (lambda: Preparation(counts=1), "must be true or false"),  # type: ignore[arg-type]
        (lambda: Preparation(dark=3.0), "dark of a preparation must be a Level"),  # type: ignore[arg-type]
        (lambda: analysis(Preparation(monitor=Level("m")), i0="m"), "by the monitor or by i0, not both"),
        (lambda: analysis(Preparation(monitor=Level("m")), exposure="s"), "by the monitor or belongs to an exposure"),
        (lambda: analysis(Preparation(counts=True), sigma="s"), "give one of the two"),
        (lambda: analysis(Preparation(), metadata="T"), "metadata must be a list of names"),
    ],
)
def test_what_makes_no_sense_is_refused_when_it_is_said(make: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()


@pytest.mark.parametrize(
    ("preparation", "fields", "sentence"),
    [
        (Preparation(monitor=Level("m")), {"m": [1.0, 0.0]}, "the monitor is 0 at point 1 .* mask these points"),
        (
            Preparation(counts=True, dark=Level("m")),
            {"m": [1.0, 2.0]},
            "'det' of run .* is 1.5 at .* which is no count",
        ),
        (Preparation(dark=Level("m", noise="scatter")), {"m": [1.0, 2.0]}, "nothing scatters"),
        (Preparation(dark=Level("nothing")), {"m": [1.0, 2.0]}, "has no field 'nothing'"),
        (Preparation(dark=Level(stream="off")), {"m": [1.0, 2.0]}, "has no stream 'off'"),
        (Preparation(dark=Level(value=(1.0, 2.0, 3.0))), {"m": [1.0, 2.0]}, "has 3 numbers and there are 2 points"),
        (Preparation(dark=Level("m")), {"m": [1.0, None]}, "the dark of run .* is nan at point 1"),
    ],
)
def test_levels_that_do_not_fit_the_run_say_why(
    preparation: Preparation, fields: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        of(scan(det=[1.5, 2.5], **fields), preparation)


def test_a_dark_that_was_measured_once_does_not_scatter() -> None:
    run = run_of({"dark": {"det": [1.0]}, "primary": {"motor": [0.0, 1.0], "det": [5.0, 6.0]}})
    with pytest.raises(NothingToAnalyseError, match="was measured once, so that nothing scatters"):
        of(run, Preparation(dark=Level(stream="dark", noise="scatter")))


FULL = Preparation(
    counts=True,
    image=Image(rows=(1, 4), columns=(0, 7), sum="columns"),
    mask=Mask((1, 2), ((0.5, 0.6),), "bad"),
    region=((0.0, 1.0), (2.0, 3.0)),
    dark=Level(stream="dark", noise="scatter", scale=0.5),
    background=Level(value=(1.0, 2.0), sigma=(0.1, 0.2)),
    monitor=Level("i0", sigma="i0_err"),
    repeats=True,
    rebin=Rebin(edges=(0.0, 1.0, 3.0)),
)


@pytest.mark.parametrize(
    "preparation", [FULL, Preparation(), Preparation(rebin=Rebin(points=3)), Preparation(rebin=Rebin(width=0.5))]
)
def test_a_preparation_comes_back_from_toml(preparation: Preparation, tmp_path: Path) -> None:
    asked = analysis(preparation, metadata=("T", "B"))
    asked.save(tmp_path / "recipe.toml")
    again = Analysis.load(tmp_path / "recipe.toml")
    assert again.preparation == preparation and again.metadata == ("T", "B")
    assert again.digest == asked.digest


def test_the_digest_knows_each_part_of_a_preparation() -> None:
    parts = {name: value for name, value in vars(FULL).items() if value}
    digests = {analysis(Preparation(**{name: value})).digest for name, value in parts.items()}
    assert len(digests) == len(parts) == 9


def test_a_recipe_keeps_i0(tmp_path: Path) -> None:
    asked = analysis(Preparation(), i0="before", subtract=2.0)
    asked.save(tmp_path / "recipe.toml")
    again = Analysis.load(tmp_path / "recipe.toml")
    assert (again.i0, again.subtract, again.digest) == ("before", 2.0, asked.digest)


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"preparation": {"drak": {}}}, r"\[preparation\] has an unknown entry 'drak'; it may have counts, image"),
        ({"preparation": {"dark": {"feild": "a"}}}, r"\[preparation.dark\] has an unknown entry 'feild'"),
        ({"preparation": {"dark": 3}}, r"\[preparation.dark\] must be a table; got 3"),
        ({"preparation": {"rebin": {"points": 1}}}, r"\[preparation.rebin\]: points of a bin"),
        ({"files": {"tiled": "http://u:pw@host"}}, "must hold no key and no password, .* TILED_API_KEY"),
        ({"files": {"handlers": {"AD": "x"}}}, "must be 'package.module:Class'"),
    ],
)
def test_a_wrong_recipe_names_the_entry(table: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Analysis.from_table({"candidates": {"family": "peaks", "counts": [0, 1]}, **table})


POINTS = st.lists(
    st.tuples(st.integers(-20, 20), st.integers(0, 1000), st.integers(1, 50)), min_size=3, max_size=30
).filter(lambda rows: len({x for x, _, _ in rows}) > 2)
STEPS = st.sampled_from(
    [
        Preparation(repeats=True),
        Preparation(rebin=Rebin(width=3.0)),
        Preparation(repeats=True, rebin=Rebin(points=2)),
        Preparation(mask=Mask(ranges=((0.0, 1.0),)), rebin=Rebin(edges=(-30.0, -5.0, 0.0, 30.0))),
    ]
)


@settings(max_examples=100, deadline=None)
@given(POINTS, STEPS, st.randoms(use_true_random=False), st.booleans())
def test_the_order_of_the_points_changes_nothing(
    rows: list[tuple[int, int, int]], preparation: Preparation, rng: Any, counts: bool
) -> None:
    def prepared(table: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any] | None]:
        x, y, m = table.T
        beside = {"monitor": Quantity(m, m.copy())} if counts else {}
        points = Points(x, y, None if counts else m, beside=beside)
        asked = Preparation(
            counts=counts, repeats=preparation.repeats, rebin=preparation.rebin, mask=preparation.mask,
            monitor=Level("m") if counts else None,
        )  # fmt: skip
        made, _ = prepare(points, asked)
        return [made.x, made.y, made.sigma]

    shuffled = list(rows)
    rng.shuffle(shuffled)
    for one, two in zip(prepared(np.array(rows, dtype=float)), prepared(np.array(shuffled, dtype=float)), strict=True):
        assert one is not None and two is not None and np.allclose(one, two, rtol=1e-12)


@settings(max_examples=50, deadline=None)
@given(POINTS, STEPS)
def test_no_count_is_lost_or_made(rows: list[tuple[int, int, int]], preparation: Preparation) -> None:
    x, y, _ = np.array(rows, dtype=float).T
    made, counts = prepare(Points(x, y), preparation, counts=True)
    keep = (x < 0) | (x > 1) if preparation.mask else np.ones(x.size, dtype=bool)
    left = 0 if preparation.rebin is None or preparation.rebin.points is None else np.unique(x[keep]).size % 2
    assert counts and made.exposure is not None
    if not left:
        assert made.y.sum() == y[keep].sum() and made.exposure.sum() == keep.sum()


def test_a_known_gaussian_noise_speaks_of_the_prepared_points() -> None:
    data = of(scan(det=[1.0, 2.0, 3.0, 4.0]), Preparation(rebin=Rebin(points=2)), noise=Gaussian(0.1))
    assert data.n == 2 and data.sigma is None
