from typing import Any, final

from numpy import float32, int64
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
def layer_norm(
    x: NDArray[float32],
    residual: NDArray[float32] | None,
    weight: NDArray[float32] | None,
    bias: NDArray[float32] | None,
    out: NDArray[float32],
    eps: float,
    num_threads: int,
) -> None: ...

@final
class Calls:
    def begin_part(self) -> None: ...
    def linear(
        self,
        x: NDArray[float32],
        panels: NDArray[float32],
        bias: NDArray[float32] | None,
        residual: NDArray[float32] | None,
        out: NDArray[float32],
        activation: int,
    ) -> None: ...
    def layer_norm(
        self,
        x: NDArray[float32],
        weight: NDArray[float32] | None,
        bias: NDArray[float32] | None,
        out: NDArray[float32],
        eps: float,
    ) -> None: ...
    def attention(self, call: Any, out: NDArray[float32]) -> None: ...
    def additive(
        self,
        arrays: Any,
        score_weight: NDArray[float32],
        key_lengths: NDArray[int64] | None,
        out: NDArray[float32],
    ) -> None: ...
    def steps(
        self,
        x: NDArray[float32],
        weight: tuple[NDArray[float32], NDArray[float32] | None],
        states: tuple[NDArray[float32], ...],
        counts: NDArray[int64],
        backwards: bool,
        gates: NDArray[float32],
        out: NDArray[float32],
    ) -> None: ...
    def gru(
        self,
        x: NDArray[float32],
        h: NDArray[float32],
        state: NDArray[float32],
        out: NDArray[float32],
    ) -> None: ...
    def append(
        self, rows: NDArray[float32], cache: NDArray[float32], lengths: NDArray[int64]
    ) -> None: ...
    def run(self, num_threads: int) -> None: ...
