"""The measurement: engines in turn, round by round, each result checked against float64."""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .engine import Engine, EngineError
from .limit import Limit
from .rows import Row
from .work import Arrays, Sentences

SEED = 20240607
#: The largest error allowed, relative to the largest true value: between an honest float32 result
#: and one in bfloat16 or with an approximate GELU lie three orders of magnitude.
TOLERANCE = {"float32": 5e-5, "float64": 1e-12}
#: How often each form is tried before the fastest is picked.
TRIALS = 2
#: The limit's loops reach their rate at once and need less time than an engine.
LIMIT_SECONDS = 0.03


@dataclass
class Measured:
    """What one engine did on one row."""

    form: str
    error: float
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median seconds of one call."""
        return statistics.median(self.seconds)


@dataclass
class Comparison:
    """What all engines did on one row. `limit` is in operations or bytes a second."""

    row: Row
    amount: float
    unit: str
    engines: dict[str, Measured] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    limits: list[float] = field(default_factory=list)

    @property
    def limit(self) -> float:
        """Median of the limit over the rounds."""
        return statistics.median(self.limits)


@dataclass(frozen=True)
class Plan:
    """How long to measure, and where the text model is."""

    rounds: int
    seconds: float
    model: str | None


def compare(row: Row, engines: list[Engine], limit: Limit, plan: Plan) -> Comparison:
    """Measure one row on every engine that has a right answer to it."""
    arrays = row.work.inputs(np.random.default_rng(SEED))
    if isinstance(row.work, Sentences):
        if plan.model is None:
            raise EngineError("needs a model: give --model FOLDER (README.md says where from)")
        arrays["folder"] = np.array(plan.model)
    traffic = row.work.traffic(arrays)
    if traffic is None:
        found = Comparison(row, row.work.flops(arrays), "GFLOP/s")
    else:
        found = Comparison(row, traffic, "GB/s")
    ready = _prepare(found, engines, arrays, plan)
    for round_ in range(plan.rounds):
        first = round_ % max(1, len(ready))  # nobody always follows the same neighbour
        for engine in ready[first:] + ready[:first]:
            measured = found.engines[engine.name]
            measured.seconds.append(engine.measure(measured.form, plan.seconds))
        if traffic is None:
            found.limits.append(limit.arithmetic(row.work.dtype, LIMIT_SECONDS))
        else:
            found.limits.append(limit.read(int(traffic), LIMIT_SECONDS))
    return found


def _prepare(found: Comparison, engines: list[Engine], arrays: Arrays, plan: Plan) -> list[Engine]:
    """Let each engine build its forms; keep for each the fastest that is right."""
    ready = []
    truth = found.row.work.truth(arrays)
    with tempfile.TemporaryDirectory() as folder:
        inputs = str(Path(folder) / "inputs.npz")
        np.savez(inputs, **arrays)
        for engine in engines:
            try:
                results = engine.prepare(found.row.name, inputs, folder)
                if not results:
                    continue
                errors = {form: _error(path, truth, arrays) for form, path in results.items()}
                best = _fastest(engine, errors, TOLERANCE[found.row.work.dtype], plan.seconds)
            except EngineError as error:
                found.problems[engine.name] = str(error)
                continue
            found.engines[engine.name] = Measured(best, errors[best])
            ready.append(engine)
    return ready


def _fastest(engine: Engine, errors: dict[str, float], tolerance: float, seconds: float) -> str:
    right = [form for form, error in errors.items() if error <= tolerance]
    if not right:
        wrong = ", ".join(f"{form} ({error:.1e})" for form, error in errors.items())
        raise EngineError(f"wrong result: {wrong}")
    if len(right) == 1:
        return right[0]
    trials = {form: float("inf") for form in right}
    for _ in range(TRIALS):  # in turn, and the better of each: a busy moment chooses nothing
        for form in right:
            trials[form] = min(trials[form], engine.measure(form, seconds))
    return min(trials, key=lambda form: trials[form])


def _error(path: str, truth: np.ndarray, arrays: Arrays) -> float:
    """Return the largest error relative to the largest true value; infinite where misshapen."""
    result = np.load(path)
    if result.shape != truth.shape:
        return float("inf")
    if "lengths" in arrays:  # rows past their length are nobody's business
        rows = np.arange(truth.shape[-2])[:, None] < arrays["lengths"][:, None, None, None]
        result = np.where(rows, result, 0)
    return float(np.abs(result - truth).max() / np.abs(truth).max())
