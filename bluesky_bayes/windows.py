"""Whether an answer depends on the window of x: the same question asked of several windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bluesky_bayes.candidates import Candidates
from bluesky_bayes.dataset import Dataset
from bluesky_bayes.inference import select_many
from bluesky_bayes.noise import Noise, noise_for
from bluesky_bayes.sampler import Settings
from bluesky_bayes.selection import Selection

FEWEST = 2


@dataclass(frozen=True, eq=False)
class WindowScan:
    """Answers by window.

    Attributes
    ----------
    windows : tuple of (float, float)
        First and last x.
    selections : tuple of Selection
    """

    windows: tuple[tuple[float, float], ...]
    selections: tuple[Selection, ...]

    def __repr__(self) -> str:
        """The answer in words."""
        return f"<WindowScan: {self.verdict}>"

    @property
    def never(self) -> tuple[str, ...]:
        """Models that are out in every window."""
        return tuple(
            name for name in self.selections[0].names if not any(name in s.in_question for s in self.selections)
        )

    @property
    def depends(self) -> bool:
        """Whether a model is in question in one window and out in another."""
        return len({selection.in_question for selection in self.selections}) > 1

    @property
    def verdict(self) -> str:
        """In words: whether the answer depends on the window, what is in question in each, and what is out in all."""
        each = "; ".join(
            f"from {low:.10g} to {high:.10g}, {' or '.join(selection.in_question)}"
            + ("" if selection.trustworthy else " (not to be trusted as it stands)")
            for (low, high), selection in zip(self.windows, self.selections, strict=True)
        )
        text = f"the answer {'depends' if self.depends else 'does not depend'} on the window: {each}"
        return f"{text}; out in every window: {', '.join(self.never)}" if self.never else text


def window_scan(
    data: Dataset,
    candidates: Candidates,
    windows: Sequence[tuple[float, float]],
    noise: Noise | None = None,
    *,
    seed: int = 0,
    settings: Settings | None = None,
) -> WindowScan:
    """Ask the same question of several windows of the data.

    Priors that come from the data's range are taken once, from the points that lie in any of the windows, so that the
    windows differ in their points alone.

    Parameters
    ----------
    data : Dataset
    candidates : Candidates
    windows : sequence of (float, float)
        First and last x, both included; two or more.
    noise : Gaussian, StudentT or Poisson, optional
        As in `select`, for all points of the data.
    seed : int
    settings : Settings, optional

    Returns
    -------
    WindowScan

    Raises
    ------
    ValueError
        For fewer than two windows, or a window without points.

    Examples
    --------
    >>> import numpy as np
    >>> from bluesky_bayes.families import peaks
    >>> x = np.linspace(-3, 3, 61)
    >>> y = 2 * np.exp(-0.5 * (x / 0.4) ** 2) + 0.1 * np.random.default_rng(0).standard_normal(61)
    >>> scan = window_scan(Dataset(x, y), peaks(counts=[0, 1]), [(-3, 3), (-2, 2)])
    >>> scan.depends
    False
    """
    listed = tuple((float(low), float(high)) for low, high in windows)
    if len(listed) < FEWEST:
        raise ValueError(f"a window scan needs two windows or more; got {list(listed)}")
    inside = [(data.x >= low) & (data.x <= high) for low, high in listed]
    for (low, high), points in zip(listed, inside, strict=True):
        if not points.any():
            raise ValueError(f"no points of x ({data.origin.x!r}) lie between {low:g} and {high:g}")
    noise, data = noise_for(data, noise), data.settled()
    union, *parts = (replace(data, mask=points) for points in (np.any(inside, axis=0), *inside))
    resolved = candidates.resolved(union, noise_for(union, noise))
    selections = select_many(parts, resolved, noise, seed=seed, settings=settings)
    return WindowScan(listed, tuple(selections))
