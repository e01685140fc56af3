"""A selection on disk is the selection that was saved."""

import importlib
import math
import pkgutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from rich.console import Console
from scipy import stats

from bluesky_bayes import Component, Dataset, Gaussian, Model, Poisson, Selection, StudentT, component, families, shapes
from bluesky_bayes.candidates import family
from bluesky_bayes.components import PlainFunction
from bluesky_bayes.dataset import Origin
from bluesky_bayes.model import Slot, Term
from bluesky_bayes.posterior import Diagnostics
from bluesky_bayes.storage import FORMAT, MARK, from_group, save_selection, to_group

xr = pytest.importorskip("xarray", "2024.10")
h5netcdf = pytest.importorskip("h5netcdf")

MakeSelection = Callable[..., Selection]

LN2 = math.log(2)


def half_life(amplitude: Any, rate: Any) -> Any:
    return LN2 / rate


@component(derived={"half_life": half_life}, units={"rate": "1/x", "half_life": "x"})
def decay(x: float, rate: float) -> float:
    """An exponential."""
    return math.exp(-rate * x)


def other(function: Callable[..., Any], name: str) -> Component:
    """A component whose function has another's name."""
    made = component(function)
    source = made.shape.source.replace(function.__name__, name)
    return replace(made, name=name, shape=PlainFunction(name, source))


@pytest.fixture
def saved_again(tmp_path: Path) -> Callable[..., Selection]:
    def save_and_load(selection: Selection, **options: Any) -> Selection:
        selection.save(tmp_path / "selection.nc")
        return Selection.load(tmp_path / "selection.nc", **options)

    return save_and_load


def assert_same(a: Any, b: Any, at: str = "selection") -> None:
    """Same types, same bits, in every field of every part."""
    if isinstance(a, np.ndarray):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()), at
    elif hasattr(a, "dist"):
        assert (type(a.dist), tuple(a.args), a.kwds) == (type(b.dist), tuple(b.args), b.kwds), at
        np.testing.assert_array_equal(a.ppf([0.1, 0.9]), b.ppf([0.1, 0.9]))
    elif is_dataclass(a):
        assert type(a) is type(b), at
        for field in fields(a):
            assert_same(getattr(a, field.name), getattr(b, field.name), f"{at}.{field.name}")
    elif isinstance(a, Mapping):
        assert list(a) == list(b), at
        for key in a:
            assert_same(a[key], b[key], f"{at}[{key!r}]")
    elif isinstance(a, tuple):
        assert isinstance(b, tuple), at
        assert len(a) == len(b), at
        for i, (one, two) in enumerate(zip(a, b, strict=True)):
            assert_same(one, two, f"{at}[{i}]")
    else:
        assert type(a) is type(b), at
        assert a == b, at


def text_of(selection: Selection) -> str:
    console = Console(file=StringIO(), width=100)
    console.print(selection.summary())
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def picture_of(figure: Any) -> bytes:
    """The points of a figure."""
    buffer = BytesIO()
    figure.savefig(buffer, format="rgba", dpi=50)
    return buffer.getvalue()


NOISES: list[dict[str, Any]] = [{}, {"counts": True}, {"known_noise": False}]


@pytest.mark.parametrize("options", NOISES)
def test_every_field_comes_back_to_the_last_bit(
    make_selection: MakeSelection, saved_again: Callable[..., Selection], options: dict[str, Any]
) -> None:
    selection = make_selection(**options)
    assert_same(selection, saved_again(selection))


def test_what_stands_beside_the_points_comes_back(
    make_selection: MakeSelection, saved_again: Callable[..., Selection]
) -> None:
    selection, rng = make_selection(), np.random.default_rng(0)
    x = np.array([2.0, 0.0, -0.0, 1.0, 1.0])
    sigma, exposure = rng.uniform(1, 2, 5), rng.uniform(1, 2, 5)
    units, origin = {"x": "µm", "y": "days since 2000-01-01"}, Origin("uid", "primary", "a/b", "µ", None)
    data = replace(Dataset(x, np.arange(5.0), sigma, True, exposure, np.arange(5) < 4, units, origin))
    assert data.notes
    for noise in (
        Gaussian(np.linspace(1, 2, 4)),
        Gaussian(prior=stats.loguniform(1e-3, 1e3)),
        Poisson(2.5),
        Poisson(np.linspace(1, 2, 4)),
        Poisson(scale=1.5),
        StudentT(0.1, dof=3.0),
        StudentT(prior=stats.uniform(0.1, 1)),
    ):
        changed = replace(selection, data=data, noise=noise, seed=2**70, elapsed=0.1 + 0.2, notes=("é", ""))
        assert_same(changed, saved_again(changed))


def test_priors_ties_fixed_numbers_and_diagnostics_come_back(
    make_selection: MakeSelection, saved_again: Callable[..., Selection]
) -> None:
    selection = make_selection()
    first = Term("a/b", shapes.gaussian, (Slot("height"), Slot("center"), Slot(None, offset=0.1)))
    second = Term("c", shapes.power(2), (Slot("height", 0.3, 0.1), Slot(None, offset=1.0), Slot(None, offset=2.0)), 1)
    priors = {"height": stats.gamma(a=5, scale=1 / 3), "center": stats.truncnorm(-1, 2.5, loc=0.1)}
    model = Model("a / b ∆", (first, second), priors, ((0,), (1,)), {"peak": 1})
    diagnostics = Diagnostics(
        1.1, 3, 8, 20, {"height": 0.25}, ess=math.inf, gap=math.nan, edges=("height at the edge",), single=False
    )
    posterior = replace(selection.best, model=model, diagnostics=replace(diagnostics, gap=0.3))
    changed = replace(selection, posteriors=(posterior,), prior_probabilities=np.ones(1))
    assert_same(changed, saved_again(changed))


def test_a_model_without_parameters_comes_back(
    make_selection: MakeSelection, saved_again: Callable[..., Selection]
) -> None:
    selection = make_selection()
    nothing = replace(
        selection.best,
        model=replace(selection.best.model, terms=(), priors={}, exchangeable=()),
        draws={},
        derived={},
        fit=replace(selection.best.fit, terms={}),
    )
    changed = replace(selection, posteriors=(nothing,), prior_probabilities=np.ones(1))
    assert_same(changed, saved_again(changed))


def test_a_loaded_selection_says_and_draws_the_same(
    make_selection: MakeSelection, saved_again: Callable[..., Selection]
) -> None:
    selection = make_selection((-90.0, -40.0, -41.0), r_hat=1.3)
    loaded = saved_again(selection)
    assert loaded.verdict == selection.verdict
    assert text_of(loaded) == text_of(selection)
    for draw in (Selection.plot, Selection.plot_corner, Selection.plot_trace):
        assert picture_of(draw(loaded)) == picture_of(draw(selection))
    assert [model.digest for model in (p.model for p in loaded.posteriors)] == [
        model.digest for model in (p.model for p in selection.posteriors)
    ]


def test_a_loaded_selection_gives_arviz_the_same(
    make_selection: MakeSelection, saved_again: Callable[..., Selection]
) -> None:
    pytest.importorskip("arviz")
    selection = make_selection()
    before, after = selection.to_arviz("2 peaks"), saved_again(selection).to_arviz("2 peaks")
    assert after.groups() == before.groups()
    for group in before.groups():
        xr.testing.assert_identical(after[group], before[group])


def test_a_loaded_selection_gives_the_same_documents(
    make_selection: MakeSelection, saved_again: Callable[..., Selection]
) -> None:
    selection = make_selection()
    contents = [
        [
            (name, {key: document[key] for key in ("analysis", "result", "data") if key in document})
            for name, document in answer.to_documents()
        ]
        for answer in (selection, saved_again(selection))
    ]
    np.testing.assert_equal(contents[1], contents[0])


def test_the_ready_made_components_of_every_family_are_found_again(
    make_selection: MakeSelection, saved_again: Callable[..., Selection]
) -> None:
    selection = make_selection()
    candidates = [
        families.peaks(shape, [1], background, width=width)
        for shape, background, width in (
            ("gaussian", None, "precision"),
            ("lorentzian", "cubic", None),
            ("pseudo-voigt", "constant", None),
            ("voigt", "constant", None),
        )
    ]
    modules = [
        importlib.import_module(f"{families.__name__}.{m.name}") for m in pkgutil.iter_modules(families.__path__)
    ]
    found = [value for module in modules for value in vars(module).values() if isinstance(value, Component)]
    candidates += [
        family(each, [1], background=None, priors={p.name: stats.uniform(0, 1) for p in each.parameters})
        for each in found
    ]
    for (model,) in (some.models for some in candidates):
        model = model.resolved(selection.data, selection.noise)
        changed = replace(selection, posteriors=(replace(selection.best, model=model),), prior_probabilities=np.ones(1))
        assert_same(changed, saved_again(changed))


def own_component(selection: Selection) -> Selection:
    (model,) = family(decay, [1], priors={"rate": stats.uniform(0, 2)}).models
    posterior = replace(selection.best, model=model.resolved(selection.data, selection.noise))
    return replace(selection, posteriors=(posterior,), prior_probabilities=np.ones(1))


def test_a_component_of_your_own_is_found_among_those_given(
    make_selection: MakeSelection, saved_again: Callable[..., Selection]
) -> None:
    selection = own_component(make_selection())
    loaded = saved_again(selection, components=[decay])
    assert_same(selection, loaded)
    assert loaded.best.model.terms[0].component.shape is decay.shape


def test_a_component_that_is_not_given_is_named_with_what_to_do(
    make_selection: MakeSelection, saved_again: Callable[..., Selection]
) -> None:
    with pytest.raises(ValueError, match=r"selection\.nc: .*'decay'.* give it, .*components=") as caught:
        saved_again(own_component(make_selection()))
    assert "math.exp(-rate * x)" in str(caught.value)


def test_a_component_that_has_changed_is_refused(
    make_selection: MakeSelection, saved_again: Callable[..., Selection]
) -> None:
    def changed(x: float, rate: float) -> float:
        return math.exp(-2.0 * rate * x)

    with pytest.raises(ValueError, match="its function 'decay' was another when the file was written"):
        saved_again(own_component(make_selection()), components=[other(changed, "decay")])


def test_a_docstring_may_change(make_selection: MakeSelection, saved_again: Callable[..., Selection]) -> None:
    shape = replace(decay.shape, source=decay.shape.source.replace("An exponential.", "Another sentence."))
    assert shape != decay.shape
    loaded = saved_again(own_component(make_selection()), components=[replace(decay, shape=shape)])
    assert loaded.best.model.terms[0].component.shape is shape


def test_nothing_of_a_file_is_run(make_selection: MakeSelection, tmp_path: Path) -> None:
    path, spy = tmp_path / "selection.nc", tmp_path / "was run"
    make_selection().save(path)
    with h5netcdf.File(path, "a") as file:
        del file.attrs["sha256"]
        for model in ("model0", "model1", "model2"):
            text = file[model].attrs["model"]
            file[model].attrs["model"] = text.replace("return ", f"open({str(spy)!r}, 'w'); return ")
    with pytest.raises(ValueError, match="was another when the file was written"):
        Selection.load(path)
    assert not spy.exists()


def test_a_prior_that_scipy_does_not_name_is_refused_before_anything_is_written(
    make_selection: MakeSelection, tmp_path: Path
) -> None:
    class OwnDistribution(stats.rv_continuous):
        def _cdf(self, x: Any, *args: Any) -> Any:
            return x

    selection = make_selection()
    own: Any = OwnDistribution(a=0.0, b=1.0, name="uniform")
    model = replace(selection.best.model, priors={**selection.best.model.priors, "constant": own()})
    changed = replace(selection, posteriors=(replace(selection.best, model=model),), prior_probabilities=np.ones(1))
    with pytest.raises(ValueError, match="prior of 'constant' is a distribution of your own"):
        changed.save(tmp_path / "selection.nc")
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_a_newer_format_is_refused(make_selection: MakeSelection, tmp_path: Path) -> None:
    path = tmp_path / "selection.nc"
    make_selection().save(path)
    with h5netcdf.File(path, "a") as file:
        file.attrs[MARK] = str(FORMAT + 1)
    with pytest.raises(ValueError, match=rf"has format {FORMAT + 1} and .* up to {FORMAT}; update bluesky_bayes"):
        Selection.load(path)


def test_a_file_that_is_no_selection_is_refused(make_selection: MakeSelection, tmp_path: Path) -> None:
    path = tmp_path / "other.nc"
    with pytest.raises(FileNotFoundError, match=r"other\.nc"):
        Selection.load(path)
    path.write_text("x,y\n1,2\n")
    with pytest.raises(ValueError, match=r"other\.nc is no saved selection, or it is damaged"):
        Selection.load(path)
    xr.Dataset({"y": ("x", [1.0, 2.0])}).to_netcdf(path, engine="h5netcdf")
    with pytest.raises(ValueError, match=r"other\.nc is no saved selection; give a file that Selection\.save wrote"):
        Selection.load(path)
    make_selection().save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"other\.nc is no saved selection, or it is damaged"):
        Selection.load(path)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_file_is_refused_and_never_read_as_another_answer(
    make_selection: MakeSelection, tmp_path: Path
) -> None:
    selection, path, rng = make_selection(), tmp_path / "answer.nc", np.random.default_rng(0)
    selection.save(path)
    whole, refused = path.read_bytes(), 0
    for _ in range(25):
        damaged = bytearray(whole)
        for at in rng.integers(len(whole), size=20):
            damaged[at] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            same_numbers(Selection.load(path), selection)
        except ValueError as error:
            refused += str(path) in str(error) and "damaged" in str(error)
    assert refused >= 20


def same_numbers(one: Selection, other: Selection) -> None:
    assert one.data == other.data
    np.testing.assert_array_equal(one.log_evidence, other.log_evidence)
    for a, b in zip(one.posteriors, other.posteriors, strict=True):
        assert {name: values.tobytes() for name, values in a.draws.items()} == {
            name: values.tobytes() for name, values in b.draws.items()
        }


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.nc", tmp_path):
        with pytest.raises(FileNotFoundError, match="there is no file"):
            Selection.load(path)


def test_writing_that_fails_leaves_the_old_file_and_no_other(
    make_selection: MakeSelection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "selection.nc"
    make_selection().save(path)
    before = path.read_bytes()

    def half(tree: Any, draft: Path, **options: Any) -> None:
        draft.write_bytes(before[:100])
        raise OSError("no space left on device")

    monkeypatch.setattr(xr.DataTree, "to_netcdf", half)
    with pytest.raises(OSError, match="no space"):
        make_selection(counts=True).save(path)
    assert (path.read_bytes(), [entry.name for entry in tmp_path.iterdir()]) == (before, ["selection.nc"])


def test_a_file_is_replaced(make_selection: MakeSelection, saved_again: Callable[..., Selection]) -> None:
    saved_again(make_selection())
    assert saved_again(make_selection(counts=True)).noise.__class__ is Poisson


def test_a_folder_that_is_not_there_is_named(make_selection: MakeSelection, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*absent; make it first"):
        make_selection().save(tmp_path / "absent" / "selection.nc")


def test_without_the_extra_the_error_names_it(
    make_selection: MakeSelection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "h5netcdf", None)
    for action in (make_selection().save, Selection.load):
        with pytest.raises(ImportError, match=r"bluesky-bayes\[netcdf\]"):
            action(tmp_path / "selection.nc")


def test_a_file_is_read_by_anyone(make_selection: MakeSelection, tmp_path: Path) -> None:
    selection = make_selection()
    save_selection(selection, tmp_path / "selection.nc")
    with xr.open_datatree(tmp_path / "selection.nc", engine="h5netcdf") as tree:
        np.testing.assert_array_equal(tree["log_evidence"].sel(model="1 peak"), selection["1 peak"].log_evidence)
        draws = tree["model1/draws"].sel(parameter="peak1.center")
        assert draws.dims == ("chain", "draw")
        np.testing.assert_array_equal(draws, selection["1 peak"].draws["peak1.center"])
        np.testing.assert_array_equal(tree["data/y"], selection.data.y)
        assert '"bluesky-bayes"' in tree.attrs["versions"]


BITS = st.one_of(
    *(
        arrays(kind, array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
        for kind in (np.float64, np.uint64, np.int64)
    )
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.sampled_from(["z", "counter", "energies", "time"]), BITS), st.integers(), st.floats())
def test_arrays_and_numbers_come_back_from_a_group_of_a_file(
    tmp_path_factory: pytest.TempPathFactory, states: dict[str, Any], whole: int, number: float
) -> None:
    path = tmp_path_factory.mktemp("group") / "states.nc"
    group = to_group({"whole": whole, "number": number, "both": [whole, number]}, states)
    xr.DataTree.from_dict({"/model0/states": group}).to_netcdf(path, engine="h5netcdf")
    with xr.open_datatree(path, engine="h5netcdf", mask_and_scale=False, decode_times=False) as tree:
        plain, back = from_group(tree["model0/states"].to_dataset(inherit=False).load())
    np.testing.assert_equal(plain, {"whole": whole, "number": number, "both": [whole, number]})
    assert math.copysign(1.0, plain["number"]) == math.copysign(1.0, number) or math.isnan(number)
    assert sorted(back) == sorted(states)
    for name, values in states.items():
        assert_same(values, back[name], name)
