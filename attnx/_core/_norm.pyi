from numpy import float32
from numpy.typing import NDArray

def layer_norm(
    x: NDArray[float32],
    residual: NDArray[float32] | None,
    weight: NDArray[float32] | None,
    bias: NDArray[float32] | None,
    out: NDArray[float32],
    eps: float,
    num_threads: int,
) -> None: ...
