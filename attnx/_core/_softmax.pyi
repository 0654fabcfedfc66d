from typing import Any

from numpy.typing import NDArray

def softmax(
    x: NDArray[Any], mask: NDArray[Any] | None, out: NDArray[Any], num_threads: int
) -> None: ...
