from numpy import float32
from numpy.typing import NDArray

def linear(
    x: NDArray[float32],
    panels: NDArray[float32],
    bias: NDArray[float32] | None,
    residual: NDArray[float32] | None,
    out: NDArray[float32],
    activation: int,
    num_threads: int,
) -> None: ...
