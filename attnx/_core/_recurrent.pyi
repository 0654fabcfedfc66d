from numpy import float32, int64
from numpy.typing import NDArray

def steps(
    x: NDArray[float32],
    weight: tuple[NDArray[float32], NDArray[float32] | None],
    states: tuple[NDArray[float32], ...],
    counts: NDArray[int64],
    backwards: bool,
    gates: NDArray[float32],
    out: NDArray[float32],
    num_threads: int,
) -> None: ...
