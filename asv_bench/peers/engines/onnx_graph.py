"""A few lines to write small ONNX graphs by hand, for ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MICROSOFT = "com.microsoft"
#: The first opset with the Attention operator.
OPSET = 23
IR_VERSION = 11


class Graph:
    """A graph under construction: every call of `op` adds a node and returns its output's name."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._inputs: list[Any] = []
        self._constants: list[Any] = []
        self._names = 0

    def input(self, name: str, dtype: Any, shape: tuple[int | str, ...]) -> str:
        """Declare an input; a name in `shape` stands for any size."""
        element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self._inputs.append(helper.make_tensor_value_info(name, element, shape))
        return name

    def constant(self, array: np.ndarray) -> str:
        """Put an array (a weight) into the graph."""
        name = self._name()
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def op(
        self, kind: str, *inputs: str, domain: str = "", outputs: int = 1, **attributes: Any
    ) -> str:
        """Add a node and return its first output; an empty input name leaves an input out."""
        return self.nodes(kind, *inputs, domain=domain, outputs=outputs, **attributes)[0]

    def nodes(
        self, kind: str, *inputs: str, domain: str = "", outputs: int, **attributes: Any
    ) -> list[str]:
        """Add a node and return all of its outputs."""
        names = [self._name() for _ in range(outputs)]
        self._nodes.append(helper.make_node(kind, list(inputs), names, domain=domain, **attributes))
        return names

    def fused(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """Add one of ONNX Runtime's own operators."""
        return self.op(kind, *inputs, domain=MICROSOFT, outputs=outputs, **attributes)

    def linear(self, x: str, weight: np.ndarray, bias: np.ndarray | None = None) -> str:
        """Return x W^T + bias, with W (out, in) as in torch.nn.Linear."""
        product = self.op("MatMul", x, self.constant(weight.T))
        return product if bias is None else self.op("Add", product, self.constant(bias))

    def serialize(self, *results: str) -> bytes:
        """Return the model whose outputs are `results`."""
        outputs = [helper.make_tensor_value_info(r, TensorProto.FLOAT, None) for r in results]
        graph = helper.make_graph(self._nodes, "work", self._inputs, outputs, self._constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        return bytes(onnx.ModelProto.SerializeToString(model))

    def _name(self) -> str:
        self._names += 1
        return f"t{self._names}"
