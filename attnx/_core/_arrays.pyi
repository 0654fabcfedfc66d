from typing import Any, TypeGuard

from numpy.typing import NDArray

def plain(x: object) -> TypeGuard[NDArray[Any]]: ...
def apart(
    out: NDArray[Any],
    a: NDArray[Any] | None = None,
    b: NDArray[Any] | None = None,
    c: NDArray[Any] | None = None,
    d: NDArray[Any] | None = None,
) -> bool: ...
def folded(a: NDArray[Any]) -> bool: ...
