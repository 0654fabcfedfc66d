from typing import Any

from numpy.typing import NDArray

def summary(
    call: tuple[Any, ...],
    out: NDArray[Any],
    lse: NDArray[Any],
    arrays: tuple[NDArray[Any] | None, ...],
    num_threads: int,
) -> None: ...
def received(
    call: tuple[Any, ...],
    lse: NDArray[Any],
    rest: NDArray[Any],
    out: NDArray[Any],
    num_threads: int,
) -> None: ...
