from numpy import float32
from numpy.typing import NDArray

def step(
    x: NDArray[float32],
    h: NDArray[float32],
    state: NDArray[float32],
    cell: NDArray[float32] | None,
    out: NDArray[float32],
    num_threads: int,
) -> None: ...
