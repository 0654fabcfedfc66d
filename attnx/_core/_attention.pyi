from typing import Any

from numpy.typing import NDArray

def attention(
    call: tuple[Any, ...],
    out: NDArray[Any],
    lse: NDArray[Any] | None,
    num_threads: int,
    stage: int = -1,
) -> None: ...
def usual(
    query: object,
    key: object,
    value: object,
    is_causal: bool,
    rows_first: bool,
    out: object,
    num_threads: int,
) -> NDArray[Any] | None: ...
