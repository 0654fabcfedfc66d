from numpy import float32, int64
from numpy.typing import NDArray

def direction(
    x: NDArray[float32],
    panels: NDArray[float32],
    bias: NDArray[float32] | None,
    state: NDArray[float32],
    cell: NDArray[float32] | None,
    counts: NDArray[int64],
    backwards: bool,
    gates: NDArray[float32],
    out: NDArray[float32],
    num_threads: int,
) -> None: ...
