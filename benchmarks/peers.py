"""Processor time and true error of the evidence, beside other samplers in the same run.

Every peer has the settings that its own documentation gives for evidence and a likelihood over many points at once.
Each run has a process and a processor thread of its own. What is timed is the sampling call alone: imports are left
out, and compilation is told apart. Runs that are finished stay in the file of `--out` and are not repeated.
"""

import argparse
import functools
import json
import logging
import math
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from machine import describe
from problems import (
    BOX_LOG_Z,
    NAGATA_FREE_ENERGY,
    NAGATA_NORMALISER,
    box,
    nagata_2012,
    nagata_candidates,
)
from rich.console import Console
from rich.table import Table
from scipy import special

from bluesky_bayes import Candidates, Dataset, Gaussian, select

SIGMA = 0.1
PROGRESS = ("tool", "problem", "seed", "status", "cpu", "log_z", "error")
PACKAGES = ("dynesty", "ultranest", "nautilus-sampler", "blackjax", "jax", "reddemcee", "pymc")
WRONG = 1.0
"""A true error above this would change a decision: there is nothing to compare the time with."""
ONE_THREAD = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"),
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
}

Sample = Callable[[int], tuple[float, float | None]]
"""From a seed to log evidence and stated error; no error where the tool states none."""
Tool = tuple[Callable[[], object] | None, Sample]
"""The first call, which compiles, if the tool has one; and the call that is timed."""


class Question:
    """A problem as numbers that every tool can use: data, priors and the reference.

    Parameters of `k` peaks follow each other as amplitude, center, width; a constant, if any, is last.
    """

    def __init__(self, data: Dataset, candidates: Candidates, k: int, reference: float, uncertainty: float) -> None:
        self.data = data
        self.candidates = candidates
        self.k = k
        self.reference = reference
        self.uncertainty = uncertainty
        (model,) = candidates.models
        self.names = list(model.parameters)
        self.precision = any(name.endswith("precision") for name in self.names)
        self.priors: list[Any] = list(model.priors.values())

    @property
    def n(self) -> int:
        """Number of parameters."""
        return len(self.names)

    @cached_property
    def families(self) -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
        """Family, columns and its two numbers: bounds, mean and deviation, or shape and scale."""
        numbers: dict[str, Callable[[Any], tuple[float, float]]] = {
            "uniform": lambda prior: prior.support(),
            "norm": lambda prior: (prior.mean(), prior.std()),
            "gamma": lambda prior: (prior.mean() ** 2 / prior.var(), prior.var() / prior.mean()),
        }
        found = []
        for family, two in numbers.items():
            columns = np.array([i for i, prior in enumerate(self.priors) if prior.dist.name == family], dtype=int)
            if columns.size:
                found.append((family, columns, *np.array([two(self.priors[i]) for i in columns]).T))
        return found

    def transform(self, u: np.ndarray) -> np.ndarray:
        """From the unit cube to parameters, (..., n) to (..., n)."""
        theta = np.empty_like(u)
        for family, columns, first, second in self.families:
            v = u[..., columns]
            if family == "uniform":
                theta[..., columns] = first + (second - first) * v
            elif family == "norm":
                theta[..., columns] = first + second * special.ndtri(v)
            else:
                theta[..., columns] = second * special.gammaincinv(first, v)
        return theta

    def curve(self, np: Any, x: Any, theta: Any) -> Any:
        """The model at `x`, (m, n) to (m, points), with the arithmetic of `np`."""
        y = theta[:, -1:] if self.n > 3 * self.k else 0.0
        for i in range(self.k):
            amplitude, center, width = (theta[:, 3 * i + j, None] for j in range(3))
            precision = width if self.precision else 1.0 / width**2
            y = y + amplitude * np.exp(-0.5 * precision * (x - center) ** 2)
        return y

    @property
    def normaliser(self) -> float:
        """What the log likelihood has beside half the sum of squares."""
        return -self.data.n * (0.5 * math.log(2 * math.pi) + math.log(SIGMA))

    def log_likelihood(self, theta: np.ndarray) -> np.ndarray:
        """(m, n) to (m,), in pieces that fit the cache."""
        pieces = []
        for start in range(0, len(theta), 256):
            residual = (self.data.y - self.curve(np, self.data.x, theta[start : start + 256])) / SIGMA
            pieces.append(self.normaliser - 0.5 * np.einsum("ij,ij->i", residual, residual))
        return np.concatenate(pieces)

    def log_prior(self, theta: np.ndarray) -> np.ndarray:
        """(m, n) to (m,)."""
        total = np.zeros(len(theta))
        for family, columns, first, second in self.families:
            v = theta[:, columns]
            if family == "uniform":
                inside = ((v > first) & (v < second)).all(axis=1)
                total += np.where(inside, -np.log(second - first).sum(), -np.inf)
            elif family == "norm":
                total -= (0.5 * ((v - first) / second) ** 2 + np.log(second * math.sqrt(2 * math.pi))).sum(axis=1)
            else:
                safe = np.where(v > 0, v, 1.0) / second
                each = special.xlogy(first - 1, safe) - safe - special.gammaln(first) - np.log(second)
                total += np.where(v > 0, each, -np.inf).sum(axis=1)
        return total


def box_question(k: int, uncertainty: float) -> Question:
    return Question(*box(k), k, BOX_LOG_Z[k], uncertainty)


def nagata_question(k: int, uncertainty: float) -> Question:
    reference = -(NAGATA_FREE_ENERGY[k] + NAGATA_NORMALISER)
    return Question(nagata_2012(), nagata_candidates(range(k, k + 1)), k, reference, uncertainty)


PROBLEMS: dict[str, Callable[[], Question]] = {
    "box 1": lambda: box_question(1, 0.0001),
    "box 2": lambda: box_question(2, 0.003),
    "box 3": lambda: box_question(3, 0.007),
    "2012 spectrum 3": lambda: nagata_question(3, 0.02),
    "2012 spectrum 5": lambda: nagata_question(5, 0.1),
}


def ours(error: float) -> Callable[[Question], Tool]:
    """This package with a wanted error."""

    def tool(question: Question) -> Tool:
        def sample(seed: int) -> tuple[float, float | None]:
            selection = select(
                question.data,
                question.candidates,
                Gaussian(SIGMA),
                seed=seed,
                threads=1,
                error=error,
            )
            return float(selection.log_evidence[0]), float(selection.log_evidence_error[0])

        return lambda: sample(1000), sample

    return tool


def dynesty(question: Question) -> Tool:
    """Static nested sampling, which its documentation gives for evidence; every option but the live points as it comes.

    Its questions and answers ask for 50 live points a parameter.
    """
    from dynesty import NestedSampler

    def sample(seed: int) -> tuple[float, float | None]:
        sampler = NestedSampler(
            lambda theta: question.log_likelihood(theta[None])[0],
            question.transform,
            question.n,
            nlive=max(500, 50 * question.n),
            rstate=np.random.default_rng(seed),
        )
        sampler.run_nested(print_progress=False)
        return float(sampler.results.logz[-1]), float(sampler.results.logzerr[-1])

    return None, sample


def ultranest(question: Question) -> Tool:
    """400 live points; from seven parameters on the slice sampler of its tutorial for more dimensions."""
    from ultranest import ReactiveNestedSampler
    from ultranest.stepsampler import SliceSampler, generate_mixture_random_direction

    logging.getLogger("ultranest").setLevel(logging.WARNING)

    def sample(seed: int) -> tuple[float, float | None]:
        np.random.seed(seed)  # noqa: NPY002 (it takes no generator)
        sampler = ReactiveNestedSampler(
            question.names, question.log_likelihood, transform=question.transform, vectorized=True
        )
        if question.n >= 7:
            sampler.stepsampler = SliceSampler(
                nsteps=2 * question.n, generate_direction=generate_mixture_random_direction
            )
        result = sampler.run(min_num_live_points=400, show_status=False, viz_callback=False)
        return float(result["logz"]), float(result["logzerr"])

    return None, sample


def nautilus(question: Question) -> Tool:
    """10 000 effective samples and none of the exploration's points, as it recommends for results.

    One network, as it advises where one processor trains them; the other options as they come.
    """
    from nautilus import Sampler

    def sample(seed: int) -> tuple[float, float | None]:
        sampler = Sampler(
            question.transform,
            question.log_likelihood,
            n_dim=question.n,
            n_networks=1,
            vectorized=True,
            pass_dict=False,
            seed=seed,
        )
        sampler.run(n_eff=10_000, discard_exploration=True)
        return float(sampler.log_z), float(sampler.n_eff**-0.5)

    return None, sample


def blackjax(question: Question, n_runs: int = 1) -> Tool:
    """Adaptive tempering with independent proposals fitted to the particles.

    4000 particles, 50 moves, half the effective sample size: the Sampling Book's numbers. The mean evidence of several
    runs is as exact as that of one with so many times the particles, and takes less time: they fit the cache.
    """
    import blackjax
    import jax
    import jax.numpy as jnp
    from blackjax.smc import extend_params
    from blackjax.smc.tuning.from_particles import particles_covariance_matrix, particles_means
    from jax.scipy import stats
    from jax.scipy.linalg import solve_triangular

    n_particles, n = 4000, question.n
    x, y = jnp.asarray(question.data.x), jnp.asarray(question.data.y)

    def log_likelihood(theta: Any) -> Any:
        residual = (y - question.curve(jnp, x, theta[None])[0]) / SIGMA
        return question.normaliser - 0.5 * jnp.sum(residual**2)

    def log_prior(theta: Any) -> Any:
        total = 0.0
        for family, columns, first, second in question.families:
            v = theta[columns]
            if family == "uniform":
                total += stats.uniform.logpdf(v, first, second - first).sum()
            elif family == "norm":
                total += stats.norm.logpdf(v, first, second).sum()
            else:
                total += stats.gamma.logpdf(v, first, scale=second).sum()
        return total

    kernel = blackjax.irmh.build_kernel()

    def move(key: Any, state: Any, log_density: Any, mean: Any, root: Any) -> Any:
        def propose(key: Any) -> Any:
            return mean + root @ jax.random.normal(key, (n,))

        def log_proposal(_: Any, to: Any) -> Any:
            return -0.5 * jnp.sum(solve_triangular(root, to.position - mean, lower=True) ** 2)

        return kernel(key, state, log_density, propose, log_proposal)

    def fitted(particles: Any) -> Any:
        covariance = jnp.atleast_2d(particles_covariance_matrix(particles))
        return extend_params({"mean": particles_means(particles), "root": jnp.linalg.cholesky(covariance)})

    def run(key: Any, particles: Any) -> Any:
        algorithm = blackjax.inner_kernel_tuning(
            smc_algorithm=blackjax.adaptive_tempered_smc,
            logprior_fn=log_prior,
            loglikelihood_fn=log_likelihood,
            mcmc_step_fn=move,
            mcmc_init_fn=blackjax.irmh.init,
            resampling_fn=blackjax.smc.resampling.systematic,
            mcmc_parameter_update_fn=lambda key, state, info: fitted(state.particles),
            initial_parameter_value=fitted(particles),
            target_ess=0.5,
            num_mcmc_steps=50,
        )

        def one_step(carry: Any) -> Any:
            key, state, log_z = carry
            key, now = jax.random.split(key)
            state, info = algorithm.step(now, state)
            return key, state, log_z + info.log_likelihood_increment

        start = (key, algorithm.init(particles), jnp.zeros(()))
        return jax.lax.while_loop(lambda carry: carry[1].sampler_state.tempering_param < 1, one_step, start)[2]

    compiled: list[Any] = []

    def arguments(seed: int) -> Any:
        u = np.random.default_rng(seed).random((n_particles, n))
        return jax.random.key(seed), jnp.asarray(question.transform(u))

    def first() -> None:
        compiled.append(jax.jit(run).lower(*arguments(0)).compile())

    def sample(seed: int) -> tuple[float, float | None]:
        each = [float(compiled[0](*arguments(n_runs * seed + run))) for run in range(n_runs)]
        return float(special.logsumexp(each) - math.log(n_runs)), None

    return first, sample


def reddemcee(question: Question) -> Tool:
    """100 walkers, 16 temperatures down to the prior, stepping stones with a bridge.

    Its tutorial's 600 sweeps leave these problems far from equilibrium: here the ladder adapts for 250 sweeps a
    parameter, and as many more count.
    """
    from reddemcee import PTSampler

    n_temperatures, n_walkers, n_sweeps = 16, 100, 250 * question.n

    def log_probability(pairs: Any) -> list[tuple[float, float]]:
        points, betas = zip(*pairs, strict=True)
        theta = np.array(points)
        log_prior = question.log_prior(theta)
        inside = np.isfinite(log_prior)
        log_likelihood = np.full(len(theta), -np.inf)
        log_likelihood[inside] = question.log_likelihood(theta[inside])
        tempered = np.where(inside, log_prior + np.array(betas) * np.where(inside, log_likelihood, 0.0), -np.inf)
        return list(zip(tempered, log_likelihood, strict=True))

    def sample(seed: int) -> tuple[float, float | None]:
        np.random.seed(seed)  # noqa: NPY002 (it takes no generator)
        betas = np.append(np.geomspace(1.0, 1e-5, n_temperatures - 1), 0.0)
        sampler = PTSampler(n_walkers, question.n, None, None, betas=betas, vectorize=True)
        sampler.log_prob_fn = log_probability
        start = question.transform(np.random.default_rng(seed).random((n_temperatures, n_walkers, question.n)))
        sampler.run_mcmc(start, n_sweeps)
        sampler.select_adjustment("NONE")
        sampler.run_mcmc(None, n_sweeps)
        log_z, error = sampler.get_evidence_ss(discard=n_sweeps)
        return float(log_z), float(error)

    return None, sample


def pymc(question: Question) -> Tool:
    """`sample_smc` as it comes, 2000 draws in each of four chains: their mean, and their spread as the error."""
    import pymc as pm

    logging.getLogger("pymc").setLevel(logging.ERROR)
    with pm.Model() as model:
        each = []
        for name, prior in zip(question.names, question.priors, strict=True):
            if prior.dist.name == "uniform":
                each.append(pm.Uniform(name, *prior.support()))
            elif prior.dist.name == "norm":
                each.append(pm.Normal(name, prior.mean(), prior.std()))
            else:
                each.append(pm.Gamma(name, mu=prior.mean(), sigma=prior.std()))
        theta = pm.math.stack(each)
        pm.Normal("y", question.curve(pm.math, question.data.x, theta[None, :])[0], SIGMA, observed=question.data.y)

    def run(draws: int, chains: int, seed: int) -> np.ndarray:
        trace = pm.sample_smc(
            draws,
            model=model,
            random_seed=seed,
            chains=chains,
            cores=1,
            compute_convergence_checks=False,
            progressbar=False,
        )
        # Each chain holds one value a stage, all but the last undefined; chains may differ in length.
        stages = np.hstack(np.asarray(trace.sample_stats["log_marginal_likelihood"]).ravel().tolist())
        return stages[np.isfinite(stages)]

    def sample(seed: int) -> tuple[float, float | None]:
        log_z = run(2000, 4, seed)
        return float(log_z.mean()), float(log_z.std(ddof=1) / math.sqrt(len(log_z)))

    return lambda: run(100, 1, 1000), sample


TOOLS: dict[str, Callable[[Question], Tool]] = {
    **{f"bluesky_bayes {error}": ours(error) for error in (0.3, 0.1, 0.03, 0.005)},
    "dynesty": dynesty,
    "ultranest": ultranest,
    "nautilus": nautilus,
    "blackjax": blackjax,
    "blackjax, 16 runs": functools.partial(blackjax, n_runs=16),
    "reddemcee": reddemcee,
    "pymc": pymc,
}


def cpu() -> float:
    """Seconds of processor time of this process, all its threads and its children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def limit(seconds: float) -> None:
    """End this process after so many more seconds of processor time."""
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(cpu() + seconds), resource.RLIM_INFINITY))


def run_here(tool: str, problem: str, seed: int, cap: float) -> dict[str, Any]:
    """One run in this process."""
    warnings.simplefilter("ignore")
    question = PROBLEMS[problem]()
    first, sample = TOOLS[tool](question)
    answer: dict[str, Any] = {"first_cpu": None, "first_wall": None}
    if first is not None:
        limit(cap)
        start = cpu(), time.perf_counter()
        first()
        answer |= {"first_cpu": cpu() - start[0], "first_wall": time.perf_counter() - start[1]}
    limit(cap)
    start = cpu(), time.perf_counter()
    log_z, error = sample(seed)
    answer |= {"cpu": cpu() - start[0], "wall": time.perf_counter() - start[1], "log_z": log_z, "error": error}
    return answer


def run_apart(tool: str, problem: str, seed: int, cap: float) -> dict[str, Any]:
    """One run in a process of its own; a run past the cap or one that failed says so."""
    command = [sys.executable, __file__, "--here", "--tools", tool, "--problems", problem]
    command += ["--seeds", str(seed), "--cap", str(cap)]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, env=os.environ | ONE_THREAD, cwd=folder, capture_output=True, text=True)
    head = {"tool": tool, "problem": problem, "seed": seed, "cap": cap}
    if done.returncode == 0:
        return head | {"status": "done"} | json.loads(done.stdout.splitlines()[-1])
    if done.returncode == -signal.SIGXCPU:
        return head | {"status": "past the cap"}
    return head | {"status": "failed", "why": done.stderr[-2000:]}


def rms(values: list[float]) -> float:
    return math.sqrt(statistics.fmean(v * v for v in values))


def summary(runs: list[dict[str, Any]], question: Question) -> dict[str, Any] | None:
    """What a line of the table says of one tool on one problem, or None if no run ended."""
    done = [r for r in runs if r["status"] == "done"]
    if not done:
        return None
    stated = [r["error"] for r in done if r["error"] is not None]
    first = [r["first_cpu"] for r in done if r["first_cpu"] is not None]
    return {
        "cpu": [r["cpu"] for r in done],
        "true": rms([r["log_z"] - question.reference for r in done]),
        "stated": statistics.median(stated) if stated else None,
        "first": max(first) if first else None,
    }


def ratio(peer: dict[str, Any], mine: list[dict[str, Any]], uncertainty: float) -> str:
    """Processor time of a peer over that of our cheapest setting that is at least as exact.

    Errors below the reference's own uncertainty cannot be told apart and count as that.
    """
    if peer["true"] > WRONG:
        return "wrong"
    exact = [m for m in mine if max(m["true"], uncertainty) <= max(peer["true"], uncertainty)]
    if not exact:
        return "none as exact" if mine else ""
    return f"{statistics.median(peer['cpu']) / min(statistics.median(m['cpu']) for m in exact):.3g}"


def show(runs: list[dict[str, Any]], tools: list[str], problems: list[str]) -> None:
    """The table."""
    table = Table("problem", "tool", "runs", "CPU s", "true error", "stated", "first call s", "ratio", box=None)
    for problem in problems:
        question = PROBLEMS[problem]()
        of = {tool: [r for r in runs if (r["tool"], r["problem"]) == (tool, problem)] for tool in tools}
        lines = {tool: summary(some, question) for tool, some in of.items()}
        mine = [line for tool, line in lines.items() if tool.startswith("bluesky_bayes") and line]
        for tool, line in lines.items():
            n_done = sum(r["status"] == "done" for r in of[tool])
            counts = f"{n_done}/{len(of[tool])}"
            if line is None:
                why = ", ".join(sorted({r["status"] for r in of[tool]})) or "not run"
                table.add_row(problem, tool, counts, why)
                continue
            low, high = min(line["cpu"]), max(line["cpu"])
            table.add_row(
                problem,
                tool,
                counts,
                f"{statistics.median(line['cpu']):.3g} ({low:.3g} to {high:.3g})",
                f"{line['true']:.3f}",
                "" if line["stated"] is None else f"{line['stated']:.3f}",
                "" if line["first"] is None else f"{line['first']:.1f}",
                "" if tool.startswith("bluesky_bayes") else ratio(line, mine, question.uncertainty),
            )
    Console(width=140).print(table)


def read(path: Path) -> list[dict[str, Any]]:
    """The last run of each tool, problem and seed."""
    runs = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return list({(r["tool"], r["problem"], r["seed"]): r for r in runs}.values())


def main() -> None:
    """Make the runs that the file does not hold, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tools", nargs="+", default=list(TOOLS), choices=list(TOOLS))
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--cap", type=float, default=900.0, help="seconds of processor time a run may take")
    parser.add_argument("--out", type=Path, help="file of finished runs, one JSON line each")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(run_here(options.tools[0], options.problems[0], options.seeds[0], options.cap)))
        return
    out = options.out or Path(tempfile.gettempdir()) / "bluesky-bayes-peers.jsonl"
    print(describe())
    print(", ".join(f"{name} {version(name)}" for name in ("bluesky-bayes", *PACKAGES)))
    print(f"finished runs are in {out}")
    finished = {(r["tool"], r["problem"], r["seed"]) for r in read(out) if r["status"] != "failed"}
    for problem in options.problems:
        for seed in options.seeds:
            for tool in options.tools:
                if (tool, problem, seed) in finished:
                    continue
                answer = run_apart(tool, problem, seed, options.cap)
                with out.open("a") as file:
                    file.write(json.dumps(answer) + "\n")
                print({k: v for k, v in answer.items() if k in PROGRESS}, flush=True)
    show(read(out), options.tools, options.problems)


if __name__ == "__main__":
    main()
