from typing import Any, TypeGuard

from numpy.typing import NDArray

def plain(x: object) -> TypeGuard[NDArray[Any]]: ...
