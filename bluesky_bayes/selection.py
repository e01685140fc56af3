"""The answer: which of the models the data support, how surely, and in plain words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bluesky_bayes.dataset import Array, Dataset
from bluesky_bayes.evidence import check_probability, softmax
from bluesky_bayes.noise import Noise
from bluesky_bayes.posterior import Posterior
from bluesky_bayes.sampler import Settings
from bluesky_bayes.tables import with_error

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

    from bluesky_bayes.components import Component
    from bluesky_bayes.jobs import Standing

TIE = 3.0
"""Difference in log evidence (nats) below which two models count as a tie."""
CLEAR = 3.0
"""Standard errors of the evidence by which a model must be ahead of every other."""


@dataclass(frozen=True, eq=False)
class Selection:
    """What the data say about the candidates. Arrays are in the order of the candidates.

    Attributes
    ----------
    data : Dataset
    noise : Gaussian, StudentT or Poisson
    posteriors : tuple of Posterior
    prior_probabilities : (n_models,) float64
    seed : int
    sampler, device : str
        What was asked for and what was used; how each model was sampled is in its diagnostics and in the notes.
    elapsed : float
        Wall time, s.
    notes : tuple of str
        What was done to the data and assumed, in plain sentences.
    settings : Settings
        How long it was to sample.
    standings : tuple of Standing
        Where the chains of each model stand, for `refine`; none for a first look and for answers of a worker.
    """

    data: Dataset
    noise: Noise
    posteriors: tuple[Posterior, ...]
    prior_probabilities: Array
    seed: int
    sampler: str
    device: str
    elapsed: float
    notes: tuple[str, ...] = ()
    settings: Settings = field(default_factory=Settings)
    standings: tuple[Standing, ...] = ()

    def __repr__(self) -> str:
        """The answer in words: it holds too many numbers to print."""
        return f"<Selection: {self.verdict}>"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the models."""
        return tuple(p.model.name for p in self.posteriors)

    @property
    def log_evidence(self) -> Array:
        """Natural logarithm of p(data | model), (n_models,)."""
        return np.array([p.log_evidence for p in self.posteriors])

    @property
    def log_evidence_error(self) -> Array:
        """Standard errors of `log_evidence`, (n_models,)."""
        return np.array([p.log_evidence_error for p in self.posteriors])

    @property
    def probabilities(self) -> Array:
        """p(model | data), (n_models,)."""
        return softmax(self.log_evidence + np.log(self.prior_probabilities))

    @property
    def probability_errors(self) -> Array:
        """Standard errors of `probabilities` from those of the evidence, (n_models,), to first order."""
        p, e = self.probabilities, self.log_evidence_error
        jacobian = np.diag(p) - np.outer(p, p)
        errors: Array = np.sqrt((jacobian**2) @ e**2)
        return errors

    @property
    def best_index(self) -> int:
        """Index of the most probable model."""
        return int(np.argmax(self.probabilities))

    @property
    def best(self) -> Posterior:
        """Posterior of the most probable model."""
        return self.posteriors[self.best_index]

    def __getitem__(self, name: str) -> Posterior:
        """Posterior of the model of that name."""
        if name not in self.names:
            raise KeyError(f"there is no model {name!r} here; there are {', '.join(map(repr, self.names))}")
        return self.posteriors[self.names.index(name)]

    @property
    def log_bayes_factor(self) -> float:
        """Log posterior odds of the best model over the next; infinite when it stands alone."""
        return float(self._gaps()[0].min(initial=np.inf))

    def _gaps(self) -> tuple[Array, Array]:
        """How far each other model lies below the best, in nats, with errors."""
        score = self.log_evidence + np.log(self.prior_probabilities)
        others = np.arange(len(score)) != self.best_index
        errors = np.hypot(self.log_evidence_error, self.log_evidence_error[self.best_index])
        return score[self.best_index] - score[others], errors[others]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What speaks against trusting the answer.

        All that is wrong with the best model, and with the evidence of every model that is not far below it.
        """
        score = self.log_evidence + np.log(self.prior_probabilities)
        lines = []
        for i, posterior in enumerate(self.posteriors):
            problems: tuple[str, ...] = ()
            if i == self.best_index:
                problems = posterior.warnings
            elif score[i] > score.max() - 2 * TIE:
                problems = posterior.diagnostics.sampling_problems(posterior.log_evidence_error)
            lines += [f"{posterior.model.name}: {problem}" for problem in problems]
        return tuple(lines)

    @property
    def trustworthy(self) -> bool:
        """Whether no check speaks against the answer."""
        return not self.warnings

    def decisive(self, probability: float = 0.95) -> bool:
        """Whether one model stands out.

        True only if its probability exceeds `probability`, the gap to every other model exceeds three standard
        errors of the evidence, and no check fails.

        Raises
        ------
        ValueError
            For a probability that is not between 0 and 1.
        """
        check_probability(probability)
        gaps, errors = self._gaps()
        clear = bool(np.all(gaps > CLEAR * errors))
        return bool(self.probabilities[self.best_index] > probability) and clear and self.trustworthy

    @property
    def in_question(self) -> tuple[str, ...]:
        """Models that cannot be told apart from the best: within three nats or three standard errors."""
        score = self.log_evidence + np.log(self.prior_probabilities)
        errors = np.hypot(self.log_evidence_error, self.log_evidence_error[self.best_index])
        errors[self.best_index] = 0.0
        tied = score.max() - score <= np.maximum(TIE, CLEAR * errors)
        return tuple(name for name, t in zip(self.names, tied, strict=True) if t)

    @property
    def verdict(self) -> str:
        """The answer in words: what stands, what is out, what is tied, and what speaks against trusting it."""
        best, p = self.best.model.name, self.probabilities[self.best_index]
        tied = [name for name in self.in_question if name != best]
        out = [name for name in self.names if name not in self.in_question]
        if len(self.names) == 1:
            text = f"{best} is the only candidate"
        elif self.decisive():
            text = f"{best} (p = {p:.3f}), decided"
        elif tied:
            text = f"{best} is most probable (p = {p:.3f}) but cannot be told from {_listed(tied)}: undecided"
        else:
            text = f"{best} is most probable (p = {p:.3f})"
        if out:
            gap, error = self._least_excluded(out)
            text += f"; {_listed(out)} {'is' if len(out) == 1 else 'are'} out by {with_error(gap, error)} nats or more"
        if not self.trustworthy:
            text += f"; not to be trusted as it stands: {self.warnings[0]}"
        return text

    def _least_excluded(self, names: list[str]) -> tuple[float, float]:
        gaps, errors = self._gaps()
        others = [name for name in self.names if name != self.best.model.name]
        at = min((others.index(name) for name in names), key=lambda i: gaps[i])
        return float(gaps[at]), float(errors[at])

    def refine(
        self, error: float | None = None, *, budget: float | None = None, threads: int | None = None
    ) -> Selection:
        """Go on where the chains stood; what they gave before still counts.

        Parameters
        ----------
        error : float, optional
            Wanted standard error of every competing model's log evidence, in nats; by default half of the present.
        budget : float, optional
            Seconds after which no new round begins.
        threads : int, optional
            By default as many as there are processors to run on.

        Returns
        -------
        Selection
            A new one; this one stays as it is.

        Raises
        ------
        ValueError
            When the chains are not here any more.
        """
        from bluesky_bayes.inference import refined

        return refined(self, error, budget, threads)

    def summary(self) -> RenderableType:
        """Tables of the models and of the best model's parameters, for ``rich.print``."""
        from bluesky_bayes.tables import selection_table

        return selection_table(self)

    def plot(self) -> Figure:
        """Data, best model with its 95 % band, residuals and p(model): a matplotlib figure."""
        from bluesky_bayes.plots import plot_selection

        return plot_selection(self)

    def plot_corner(self, model: str | None = None, names: Sequence[str] | None = None) -> Figure:
        """Posterior of a model's parameters, each with its prior and in pairs: a matplotlib figure.

        The best model's by default; `names` chooses parameters, see `bluesky_bayes.plots.plot_corner`.
        """
        from bluesky_bayes.plots import plot_corner

        return plot_corner(self, model, names)

    def plot_trace(self, model: str | None = None, names: Sequence[str] | None = None) -> Figure:
        """Chains of a model's parameters and their densities, with R-hat: a matplotlib figure.

        The best model's by default; `names` chooses parameters, see `bluesky_bayes.plots.plot_trace`.
        """
        from bluesky_bayes.plots import plot_trace

        return plot_trace(self, model, names)

    def save(self, path: str | Path) -> None:
        """Write everything to a netCDF file, whole or not at all; `load` reads it. Needs the ``netcdf`` extra."""
        from bluesky_bayes.storage import save_selection

        save_selection(self, path)

    @classmethod
    def load(cls, path: str | Path, components: Iterable[Component] = ()) -> Selection:
        """Selection that `save` wrote.

        Parameters
        ----------
        path : str or Path
        components : iterable of Component
            Those of your own that its models are made of: a file holds their text, which is compared and never run.

        Raises
        ------
        ValueError
            When the file is no selection, of a newer format, or holds a component that is neither ready-made nor
            given.
        """
        from bluesky_bayes.storage import load_selection

        return load_selection(path, components)

    def to_arviz(self, model: str | None = None) -> Any:
        """A model's posterior, the data and predictions as ``arviz.InferenceData``, log evidence in ``attrs``.

        The best model's by default. Needs the ``arviz`` extra; see `bluesky_bayes.export.inference_data`.
        """
        from bluesky_bayes.export import inference_data

        return inference_data(self, self.best if model is None else self[model])

    def to_documents(
        self, raw_start: Mapping[str, Any] | None = None, analysis: Mapping[str, Any] | None = None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """The answer as a Bluesky run of its own, see `bluesky_bayes.documents`."""
        from bluesky_bayes.documents import selection_documents

        return selection_documents(self, raw_start or {}, analysis or {})


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
