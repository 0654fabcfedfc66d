from typing import Any

from numpy import int64
from numpy.typing import NDArray

def rotary(
    x: NDArray[Any],
    cos: NDArray[Any],
    sin: NDArray[Any],
    positions: NDArray[int64] | None,
    out: NDArray[Any],
    interleaved: bool,
    num_threads: int,
) -> None: ...
