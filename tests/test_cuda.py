"""The GPU kernels as far as they can be held against the processor's without a GPU."""

import importlib
import importlib.util
import json
import math
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kinds import Kind, decaying, decays, decays_together, peaks_together, sloping, two_peaks
from problems import decay, nagata_2012, nagata_candidates
from scipy import stats

import bluesky_bayes.families
from bluesky_bayes import Analysis, Component, Gaussian, Model, Poisson, Settings, StudentT, devices, select, shapes
from bluesky_bayes.candidates import family
from bluesky_bayes.devices import CUDA, PROCESSOR, Device, device, find_gpus, why_no_gpu
from bluesky_bayes.families import peaks
from bluesky_bayes.inference import warm_up
from bluesky_bayes.kernels import launch
from bluesky_bayes.kernels.cooperative import TranslationError, for_teams
from bluesky_bayes.kernels.cuda import Traits
from bluesky_bayes.kernels.launch import Card, pieces, why_not
from bluesky_bayes.noise import Noise
from bluesky_bayes.shapes import gaussian
from bluesky_bayes.tasks import blocks_of, make_task

QUICK = Settings(sweeps=100, longest=100, chains=2)
SINE = re.compile(r"\b(?:math|np)\.(?:sin|cos|tan)\(")
"""CUDA's sine takes float64 for arguments beyond 1e5, on a path of its own."""


def needs(*modules: str) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: pip install -e '.[gpu-test]'")


@pytest.fixture(scope="module")
def code() -> Any:
    """What makes machine code."""
    needs("numba_cuda")
    import cuda_code

    for tool in ("ptxas", "nvdisasm"):
        if cuda_code.tool(tool) is None:
            pytest.skip(f"{tool} is not here: pip install -e '.[gpu-test]'")
    return cuda_code


def all_components() -> dict[str, Component]:
    modules = [shapes]
    for found in pkgutil.iter_modules(bluesky_bayes.families.__path__, bluesky_bayes.families.__name__ + "."):
        modules.append(importlib.import_module(found.name))
    components = [c for module in modules for c in vars(module).values() if isinstance(c, Component)]
    return {f"{c.name} ({c.shape.name})": c for c in components}


# The three rules -----------------------------------------------------------------------------------------------------


def test_points_are_divided_and_the_rest_is_written_by_one() -> None:
    text = for_teams(
        "def total(x, n, out):\n"
        "    s = F(0)\n"
        "    for i in range(U64(n)):\n"
        "        s += x[i]\n"
        "    out[0] = s\n"
        "    return s\n"
    )
    assert "for i in range(U64(lane_of()), U64(n), U64(team_size())):" in text
    assert "s_of_all = sum_of_team(s)" in text
    assert "if is_first():\n        out[0] = s_of_all\n    wait_for_team()" in text
    assert text.rstrip().endswith("return s_of_all")


def test_a_number_that_others_need_is_worked_out_by_all_and_written_by_one() -> None:
    text = for_teams("def f(a):\n    b = a[0] + 1\n    a[0] = b\n    return b\n")
    assert text == (
        "def f(a):\n    b = a[0] + 1\n    wait_for_team()\n    if is_first():\n        a[0] = b\n    wait_for_team()\n"
        "    return b"
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("    s = 1.0\n    for i in range(U64(n)):\n        s += x[i]\n    return s\n", "begins at zero just before"),
        ("    s = 0.0\n    for i in range(U64(n)):\n        s *= x[i]\n    return s\n", "in another way than by a sum"),
        ("    for i in range(U64(n)):\n        x[i] = g(x, n)\n", "waits for the team in a loop over points"),
        (
            "    for k in range(3):\n        s = 0.0\n        for i in range(U64(n)):\n            s += x[i]\n"
            "        x[k] = s\n",
            "again and again",
        ),
    ],
)
def test_what_the_rules_do_not_cover_is_refused(body: str, reason: str) -> None:
    with pytest.raises(TranslationError, match=f"function 'f', line .*{reason}"):
        for_teams(f"def g(x, n):\n    x[0] = 1.0\n    return 1.0\n\n\ndef f(x, n):\n{body}")


# Equality ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("team", ["warp", "block"])
def test_simulated_sweeps_accept_what_the_processor_accepts(team: str, repository: Path) -> None:
    """Ladders from the prior and from a mixture, and particles; the particles chosen, too.

    The same where amplitudes are carried along, and for two data sets together; `python tests/simulated_sweeps.py warp
    all` has all ways to sample with each kind of noise.
    """
    needs("numba_cuda", "greenlet")
    program = repository / "tests" / "simulated_sweeps.py"
    said = subprocess.run([sys.executable, str(program), team], capture_output=True, text=True, cwd=repository)
    assert said.returncode == 0, said.stderr[-3000:]
    found = json.loads(said.stdout)
    assert len(found) == {"warp": 13, "block": 6}[team]
    for entry in found:
        processor, simulator = entry["accepted"]
        assert processor == simulator, entry
        assert entry["z"] < 1e-4, entry
        assert entry["energy"] < 1e-4, entry
    assert sum(entry["accepted"][0] for entry in found) > 20


def test_waits_that_are_left_out_are_seen_as_races(tmp_path: Path, repository: Path) -> None:
    """The skeleton of the teams' waits under ThreadSanitizer: of sums, moves, swaps, and of choosing particles."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not here")
    program = tmp_path / "teams"
    flags = ["-std=c++17", "-O1", "-g", "-fsanitize=thread", "-pthread"]
    made = subprocess.run(
        ["g++", *flags, "-o", str(program), str(repository / "tests" / "teams.cpp")], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"g++ cannot make programs with ThreadSanitizer here: {made.stderr.splitlines()[-1]}")

    def run(left_out: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(program), str(left_out)], capture_output=True, text=True, timeout=120)

    whole = run(0)
    if "unexpected memory mapping" in whole.stderr:
        pytest.skip("ThreadSanitizer does not run on this kernel")
    assert whole.returncode == 0, whole.stderr
    for left_out in (1, 2, 5, 6, 8, 11, 14, 26, 27):
        assert "data race" in run(left_out).stderr, left_out


# Machine code --------------------------------------------------------------------------------------------------------


def test_components_compile_without_spills_and_without_float64(code: Any) -> None:
    components = [c for c in all_components().values() if not SINE.search(c.shape.source)]
    assert len(components) > 20
    text = code.ptx(*code.passes_of(tuple(components), True))
    for architecture in code.ARCHITECTURES:
        made = code.assembled(text, architecture)
        assert (made.stack, made.spilled) == (0, 0)
        assert made.registers <= code.MOST_REGISTERS["passes"]
        assert "MUFU.EX2" in made.text
        assert "SHFL" in made.text
        assert not code.DOUBLE.findall(made.text)


def test_components_with_sines_compile_without_spills_for_blocks_of_threads(code: Any) -> None:
    components = [gaussian, *(c for c in all_components().values() if SINE.search(c.shape.source))]
    assert len(components) > 3
    text = code.ptx(*code.passes_of(tuple(components), False))
    for architecture in code.ARCHITECTURES:
        made = code.assembled(text, architecture)
        assert (made.stack, made.spilled) == (0, 0)
        assert made.registers <= code.MOST_REGISTERS["passes"]
        assert "BAR.SYNC" in made.text


@pytest.mark.parametrize("by_warp", [True, False])
def test_loops_over_points_of_every_noise_do_no_arithmetic_in_float64(code: Any, by_warp: bool) -> None:
    """By warp none at all; by block the warps' sums alone are added up in it, in loops that read no points."""
    text = code.ptx(*code.loops_of(by_warp))
    for architecture in code.ARCHITECTURES:
        made = code.assembled(text, architecture)
        assert (made.stack, made.spilled) == (0, 0)
        assert made.registers <= code.MOST_REGISTERS["loops"]
        loops = [loop for loop in code.innermost(made.text) if "LDG" in loop]
        assert len(loops) == 6
        assert not any(code.ANY_DOUBLE.search(loop) for loop in loops)
        assert not by_warp or not code.ANY_DOUBLE.search(made.text)


@pytest.mark.parametrize(
    ("name", "kind", "noise", "fitted", "by_warp", "architecture"),
    [
        ("ladders", two_peaks, Gaussian(0.1), False, True, "sm_90"),
        ("ladders", sloping, StudentT(), True, False, "sm_90"),
        ("particles", two_peaks, Poisson(), False, True, "sm_80"),
        ("particles", decays_together, (Gaussian(3.0), Gaussian()), True, False, "sm_90"),
        ("weighed", two_peaks, Gaussian(0.1), False, False, "sm_100"),
        ("chosen", two_peaks, Gaussian(0.1), False, True, "sm_80"),
        ("strided", sloping, Gaussian(), True, True, "sm_80"),
    ],
)
def test_whole_rounds_compile_without_spills(
    code: Any, name: str, kind: Kind, noise: Any, fitted: bool, by_warp: bool, architecture: str
) -> None:
    """One of each kind, and those that take most; `python tests/cuda_code.py` asks the same of all."""
    ladder = code.problem(kind, noise, fitted)
    calls = {"ladders": ladder, "particles": code.particles_of(ladder), "weighed": code.weighed_of(ladder)}
    if name in calls:
        made = code.kernel_of(calls[name], by_warp)
    else:
        made = code.choice_of(calls["particles"], by_warp, name)
    assert not code.short_of(name, code.assembled(code.ptx(*made), architecture))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stack": 8}, "has a stack or spills"),
        ({"spilled": 4}, "has a stack or spills"),
        ({"registers": 255}, "takes more than"),
        ({"text": ""}, "adds up without shuffles, has no loop with exponentials by MUFU.EX2"),
        ({"text": "SHFL\n.L_x_1:\nMUFU.EX2\nDMUL\n@P0 BRA `(.L_x_1)"}, "does float64 arithmetic in a loop over points"),
    ],
)
def test_what_a_kernel_falls_short_of_is_said(change: dict[str, Any], said: str) -> None:
    import cuda_code

    loop = ".L_x_0:\nDMUL\n.L_x_1:\nMUFU.EX2\n@P0 BRA `(.L_x_1)\n@P1 BRA `(.L_x_0)"
    good = cuda_code.Code(32, 0, 0, f"SHFL\n{loop}")
    assert cuda_code.short_of("ladders", good) == ""
    assert said in cuda_code.short_of("ladders", good._replace(**change))


# Devices -------------------------------------------------------------------------------------------------------------


class Driver:
    """A driver with some GPUs."""

    def __init__(
        self, count: int, capability: tuple[int, int] = (9, 0), started: int = 0, version: int = 13010
    ) -> None:
        self.count, self.capability, self.started, self.version = count, capability, started, version

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self.started

    def cuDriverGetVersion(self, number: Any) -> None:  # noqa: N802
        number._obj.value = self.version

    def cuDeviceGetCount(self, count: Any) -> None:  # noqa: N802
        count._obj.value = self.count

    def cuDeviceGet(self, handle: Any, number: int) -> None:  # noqa: N802
        handle._obj.value = number

    def cuDeviceGetName(self, name: Any, size: int, handle: Any) -> None:  # noqa: N802
        name.value = b"NVIDIA H100"

    def cuDeviceTotalMem_v2(self, memory: Any, handle: Any) -> None:  # noqa: N802
        memory._obj.value = 80 * 2**30

    def cuDeviceGetAttribute(self, value: Any, attribute: int, handle: Any) -> None:  # noqa: N802
        value._obj.value = self.capability[attribute == 76]


def no_driver(name: str) -> Any:
    raise OSError(name)


@pytest.mark.parametrize(
    ("driver", "number", "reason"),
    [
        (no_driver, 0, "there is no NVIDIA driver here"),
        (lambda name: Driver(1, started=100), 0, "there is an NVIDIA driver, but it shows no GPU"),
        (lambda name: Driver(1, started=999), 0, "there is an NVIDIA driver, but it does not start (error 999)"),
        (lambda name: Driver(0), 0, "there is an NVIDIA driver, but it shows no GPU"),
        (lambda name: object(), 0, "the NVIDIA driver cannot be asked: 'object' object has no attribute 'cuInit'"),
        (lambda name: Driver(2), 2, "there is no GPU of number 2, only 2 in all"),
        (lambda name: Driver(1, (7, 5)), 0, "NVIDIA H100 has compute capability 7.5, and 8.0 is needed"),
    ],
)
def test_no_gpu_is_said_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, driver: Callable[[str], Any], number: int, reason: str
) -> None:
    monkeypatch.setattr(devices, "load", driver)
    assert reason in why_no_gpu(number)
    devices._looked_for.cache_clear()
    with pytest.raises(ValueError, match="there is no GPU for device='cuda"):
        device(f"cuda:{number}")
    devices._looked_for.cache_clear()


def test_a_gpu_is_described_by_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "load", lambda name: Driver(1))
    found = find_gpus()
    assert found.driver == "13.1"
    assert found.gpus == ((0, "NVIDIA H100", (9, 0), 80 * 2**30),)


def test_a_gpu_without_numba_cuda_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "load", lambda name: Driver(1))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert why_no_gpu() == "numba-cuda is not installed: pip install 'bluesky-bayes[gpu]'"


def test_a_driver_that_is_too_old_for_the_toolkit_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "load", lambda name: Driver(1, version=12040))
    monkeypatch.setattr(devices, "toolkit", lambda: ("numba-cuda", ""))
    monkeypatch.setattr(devices, "version", lambda package: "13.1.1")
    assert why_no_gpu() == (
        "the NVIDIA driver knows CUDA 12.4, and numba-cuda here compiles for CUDA 13: update the driver, or "
        "pip install 'numba-cuda[cu12]'"
    )
    monkeypatch.setattr(devices, "version", lambda package: "12.9.4")
    assert why_no_gpu() == ""


def test_why_the_processor_is_taken_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(devices, "load", no_driver)
    devices._looked_for.cache_clear()
    with caplog.at_level("INFO", "bluesky_bayes.devices"):
        for _ in range(3):
            device()
    assert [r.getMessage() for r in caplog.records] == [
        "sampling runs on the processor: there is no NVIDIA driver here (libcuda.so.1 is not found)"
    ]
    devices._looked_for.cache_clear()


class Pretended(Card):
    """A card whose answers are the processor's, changed by what a test wants."""

    def __init__(self, change: float = 0.0) -> None:
        super().__init__()
        self.change, self.calls = change, list[str]()

    def answer(self, call: Any) -> dict[str, Any]:
        from bluesky_bayes.kernels import build
        from bluesky_bayes.kernels.launch import LADDER_GIVES

        self.calls.append(call.name)
        host, arguments = build.kernels(call.task.x.dtype == np.float32), call.arguments
        drift = getattr(host, call.name)(*arguments) if call.name != "cool" else 0.0
        if call.name == "weigh":
            return {"energies": arguments[6], "misfit": arguments[7]}
        if call.name == "cool":
            return self.cooled(host, *arguments)
        found = {name: arguments[i] for name, i in LADDER_GIVES.items()}
        found["samples"] = found["samples"] + self.change
        return {**found, "z": arguments[2].z, "drift": np.array([drift])}

    def cooled(
        self, host: Any, task: Any, reference: Any, state: Any, score: Any, betas: Any, steps: Any, strides: Any,
        share: Any, sizes: Any, n_sweeps: Any, number: Any, key0: Any, key1: Any, parents: Any, scratch: Any,
        cloud: Any, energies: Any, order: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """All temperatures, with the processor's order of sums."""
        found, chosen, counted, level = [(cloud, energies, energies)], [], scratch.hits, 0
        while betas[level] < 1.0:
            host.choose(
                betas, steps, level, share, sizes, counted, len(cloud), found[-1][1], number, key0, key1,
                scratch.normals, scratch.log_uniforms, np.empty(len(cloud)), parents,
            )  # fmt: skip
            level += 1
            before = found[-1][0].copy()
            if task.free.size:
                host.find_stride(before, parents, task.free, order, share, strides, level)
            after = np.empty_like(cloud), np.empty(len(cloud)), np.empty(len(cloud))
            host.move_particles(
                task, reference, state, score, betas[level], steps, strides, level, parents, 0, n_sweeps, before,
                number, key0, key1, scratch, *after,
            )  # fmt: skip
            counted = scratch.hits.copy()
            found.append(after)
            chosen.append(parents.copy())
        clouds, energies, misfit = (np.stack(values) for values in zip(*found[1:], strict=True))
        return {
            "betas": betas[: level + 1], "steps": steps[: level + 1], "strides": strides[: level + 1],
            "clouds": clouds, "energies": energies, "misfit": misfit, "parents": np.stack(chosen), "hits": counted,
        }  # fmt: skip


def test_a_gpu_whose_sweeps_are_not_the_processors_is_refused() -> None:
    assert devices.smoke_test(Pretended()) == ""
    assert "coordinates differ by 0.1" in devices.smoke_test(Pretended(0.1))

    class Broken(Card):
        def answer(self, call: Any) -> dict[str, Any]:
            raise RuntimeError("CUDA_ERROR_UNSUPPORTED_PTX_VERSION\nand more")

    said = devices.smoke_test(Broken())
    assert said == "the GPU's first sweeps failed: RuntimeError: CUDA_ERROR_UNSUPPORTED_PTX_VERSION"


def test_the_answer_with_a_card_is_that_of_the_processor_and_says_where_it_was_found() -> None:
    """All that selections do with a card but the card itself."""
    card = Pretended()
    answers = [
        select(
            nagata_2012(),
            nagata_candidates(range(1, 2)),
            Gaussian(0.1),
            sampler="exchange",
            settings=QUICK,
            device=where,
        )
        for where in (PROCESSOR, Device(f"{CUDA}:0", (card,)))
    ]
    np.testing.assert_array_equal(answers[0].log_evidence, answers[1].log_evidence)
    assert [answer.device for answer in answers] == ["cpu", "cuda:0"]
    assert {"run_ladder", "cool", "weigh"} == set(card.calls)


def test_the_processor_goes_on_where_a_card_fails(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Pretended):
        def answer(self, call: Any) -> dict[str, Any]:
            if call.name == "run_ladder":
                raise RuntimeError("CUDA_ERROR_LAUNCH_FAILED\nand more")
            return super().answer(call)

    answers = [
        select(
            nagata_2012(), nagata_candidates(range(1, 2)), Gaussian(0.1), sampler="exchange", settings=QUICK,
            device=where, threads=1,
        )
        for where in (PROCESSOR, Device(f"{CUDA}:0", (Failing(),)))
    ]  # fmt: skip
    np.testing.assert_array_equal(answers[0].log_evidence, answers[1].log_evidence)
    assert "the GPU failed while it sampled, and the processor went on: RuntimeError: CUDA_ERROR_LAUNCH_FAILED" in (
        answers[1].notes
    )
    assert [record.getMessage() for record in caplog.records if "GPU failed" in record.getMessage()] == [
        "the GPU failed, and the processor goes on: RuntimeError: CUDA_ERROR_LAUNCH_FAILED"
    ]


def test_what_a_card_has_no_room_for_is_done_by_the_processor_and_said() -> None:
    class Full(Pretended):
        def answer(self, call: Any) -> dict[str, Any]:
            if call.name == "cool":
                pieces(2**31, 1, 2**30)
            if call.name == "weigh":
                raise RuntimeError("Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY")
            return super().answer(call)

    card = Full()
    answers = [
        select(nagata_2012(), nagata_candidates(range(2, 3)), Gaussian(0.1), settings=QUICK, device=where, threads=1)
        for where in (PROCESSOR, Device(f"{CUDA}:0", (card,)))
    ]
    np.testing.assert_array_equal(answers[0].log_evidence, answers[1].log_evidence)
    assert not card.broken
    assert any(note.startswith("the processor did what the GPU had no room for: ") for note in answers[1].notes)


def test_several_cards_share_the_work_and_go_on_when_one_fails(caplog: pytest.LogCaptureFixture) -> None:
    class Lost(Pretended):
        def answer(self, call: Any) -> dict[str, Any]:
            if len(self.calls) == 3:
                raise RuntimeError("CUDA_ERROR_DEVICE_NOT_FOUND")
            return super().answer(call)

    class Busy(Pretended):
        asked = 1

    lost, busy = Lost(), Busy()
    answers = [
        select(nagata_2012(), nagata_candidates(range(2, 4)), Gaussian(0.1), settings=QUICK, device=where, threads=1)
        for where in (PROCESSOR, Device(f"{CUDA}:0, {CUDA}:1", (lost, busy)))
    ]
    np.testing.assert_array_equal(answers[0].log_evidence, answers[1].log_evidence)
    assert len(lost.calls) == 3
    assert len(busy.calls) > 3
    assert len([record for record in caplog.records if "the GPU failed" in record.getMessage()]) == 1


def test_every_card_that_works_is_found_and_one_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "load", lambda name: Driver(3))
    monkeypatch.setattr(devices, "smoke_test", lambda card: "it is broken" if card.number == 1 else "")
    monkeypatch.setattr(devices, "toolkit", lambda: ("numba-cuda", ""))
    devices._looked_for.cache_clear()
    found = device("auto")
    assert (found.name, found.reason, found.threads) == ("cuda:0, cuda:2", "it is broken", 128)
    assert [card.number for card in device("cuda:2").cards] == [2]
    assert device("cuda:2").cards[0] is found.cards[1]
    with pytest.raises(ValueError, match="there is no GPU for device='cuda:1': it is broken"):
        device("cuda:1")
    devices._looked_for.cache_clear()


def test_everything_that_a_card_may_be_asked_is_compiled_before_the_first_run() -> None:
    """For the kind of noise that the analysis has, from the prior and from a mixture."""
    asked = set()

    class Watching(Pretended):
        def answer(self, call: Any) -> dict[str, Any]:
            asked.add((call.name, Traits.of(call.task, call.reference)))
            return super().answer(call)

    noises: list[tuple[Noise | None, int, bool]] = [(None, 0, False), (Poisson(), 1, True), (StudentT(0.1), 2, True)]
    for noise, kind, known in noises:
        asked.clear()
        warm_up(peaks(counts=[1, 2], background=1), noise, Device(f"{CUDA}:0", (Watching(),)))
        warm_up(peaks(counts=[1, 2]), noise, Device(f"{CUDA}:0", (Watching(),)))
        for from_prior in {True, False} if known else {False}:  # an unknown noise never begins at the prior itself
            for carries, jumps in ((False, True), (True, False), (True, True)):  # on a slope amplitudes are carried
                traits = Traits(kind, known, from_prior, carries, jumps)
                assert {name for name, found in asked if found == traits} == {"run_ladder", "cool", "weigh"}


def test_an_analysis_is_told_its_device_which_is_no_part_of_its_meaning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(devices, "load", no_driver)
    devices._looked_for.cache_clear()
    recipe = Analysis(peaks(counts=[1]), device="cuda:1")
    recipe.save(tmp_path / "recipe.toml")
    assert Analysis.load(tmp_path / "recipe.toml").device == "cuda:1"
    assert recipe.digest == Analysis(peaks(counts=[1])).digest
    with pytest.raises(ValueError, match="there is no GPU for device='cuda:1': there is no NVIDIA driver here"):
        recipe(nagata_2012())
    with pytest.raises(ValueError, match="device must be 'auto', 'cpu', 'cuda' or 'cuda:1' and so on; got 'gpu'"):
        Analysis(peaks(counts=[1]), device="gpu")
    devices._looked_for.cache_clear()


def test_the_script_for_a_machine_with_a_gpu_starts_without_one(repository: Path) -> None:
    program = [sys.executable, str(repository / "benchmarks" / "gpu.py"), "--help"]
    said = subprocess.run(program, check=True, capture_output=True, text=True).stdout
    assert "Everything about a GPU in one command" in said


def test_models_whose_amplitudes_are_carried_and_models_of_several_data_sets_go_to_a_card() -> None:
    tasks = [sloping(Gaussian())[0], decays(Gaussian(0.3))[0], peaks_together((Gaussian(3.0), Poisson()))[0]]
    assert [(bool(task.free.size), task.noise.size) for task in tasks] == [(True, 1), (True, 1), (True, 2)]
    assert not any(why_not(task) for task in tasks)
    nothing = make_task(blocks_of([nagata_2012()], [Gaussian(0.1)], []), Model("nothing", (), {}), True)
    assert why_not(nothing) == "models without parameters run on the processor"


def test_what_a_card_does_with_carried_amplitudes_is_what_the_processor_does() -> None:
    """Ladders and particles, whose common steps the card finds, too."""
    card, candidates = Pretended(), family(decay, [2], priors={"rate": stats.uniform(0, 6)})
    answers = [
        select(decaying(61, 0), candidates, Gaussian(), sampler="exchange", settings=QUICK, device=where, threads=1)
        for where in (PROCESSOR, Device(f"{CUDA}:0", (card,)))
    ]
    np.testing.assert_array_equal(answers[0].log_evidence, answers[1].log_evidence)
    assert {"run_ladder", "cool", "weigh"} == set(card.calls)
    assert not any("processor" in note for note in answers[1].notes)


@pytest.mark.parametrize("kind", [decays, decays_together, peaks_together])
def test_every_array_of_a_launch_is_counted_before_it(code: Any, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """By block a card has one room for proposals, as the processor has, and so arrays of the same sizes."""
    monkeypatch.setattr(launch, "MOST_BY_WARP", 0)
    call = code.problem(kind, (Gaussian(), Gaussian()) if kind is not decays else Gaussian(), True)
    taken = launch.placed([call])[0]
    names = [name for name, _ in taken]
    first, last = names.index("z"), names.index("task_of")
    _, _, state, score, *_, scratch = call.arguments[:15]
    arrays = [array for given in (state, score, (*scratch[:-1], *scratch.linear)) for array in given]
    assert [math.prod(room.shape) for _, room in taken[first:last]] == [array.size for array in arrays]
    assert call.room >= sum(array.nbytes for array in (*call.task, *call.reference, *arrays))
    cloud = code.particles_of(call)
    more = [array for name, array in launch._for_choice([cloud]) if name.startswith("order_")]
    assert [a.size for a in more] == ([a.size for a in cloud.arguments[17]] if cloud.task.free.size else [])


@pytest.mark.parametrize(
    ("room", "n", "free", "sizes"),
    [
        (2**20, 10, 2**30, [10]),
        (2**20, 1000, 2**30, [819, 181]),
        (2**10, 200_000, 2**40, [65535, 65535, 65535, 3395]),
    ],
)
def test_launches_fit_the_cards_memory(room: int, n: int, free: int, sizes: list[int]) -> None:
    assert [piece.stop - piece.start for piece in pieces(room, n, free)] == sizes


def test_what_does_not_fit_at_all_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="this needs 2048 MiB of the GPU's memory, and 819 MiB can be used"):
        pieces(2**31, 3, 2**30)


@pytest.mark.gpu
def test_a_real_gpu_gives_the_processors_answers() -> None:
    if reason := why_no_gpu():
        pytest.skip(reason)
    there = device("cuda")
    answers = [
        select(nagata_2012(), peaks(counts=[1, 2]), Gaussian(0.1), device=where, seed=1) for where in (PROCESSOR, there)
    ]
    error = np.hypot(answers[0].log_evidence_error, answers[1].log_evidence_error)
    assert np.all(np.abs(answers[0].log_evidence - answers[1].log_evidence) < 4 * error)
