from typing import Any

from numpy.typing import NDArray

UNITS: int

def additive(
    arrays: tuple[
        NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any] | None, NDArray[Any] | None
    ],
    score_weight: NDArray[Any],
    batch_shape: tuple[int, ...],
    key_lengths: NDArray[Any] | None,
    out: NDArray[Any],
    weights: NDArray[Any] | None,
    num_threads: int,
) -> None: ...
def powers(x: NDArray[Any], out: NDArray[Any], num_threads: int) -> None: ...
