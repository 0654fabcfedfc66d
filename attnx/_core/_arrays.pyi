from collections.abc import Iterable
from typing import Any, TypeGuard

from numpy.typing import NDArray

def plain(x: object) -> TypeGuard[NDArray[Any]]: ...
def apart(out: NDArray[Any], inputs: Iterable[NDArray[Any] | None]) -> bool: ...
