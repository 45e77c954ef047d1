"""Build an ONNX graph."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

OPSET = 19
"""The opset of ONNX itself; the first that compares strings."""
ML = "ai.onnx.ml"
_ML_OPSET = 4
_ML_OPSET_OF_TREES = 5
"""The opset of ONNX-ML; the first with `TreeEnsemble`, which answers doubles."""
_IR_VERSION = 10


class Graph:
    """Nodes and constants. Tensors are referred to by name; the first axis is always the rows."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._opsets = {"": OPSET, ML: _ML_OPSET}
        self._faults: list[str] = []
        self._count = 0

    def add(
        self, operator: str, *inputs: str | np.ndarray, domain: str = "", **attributes: Any
    ) -> str:
        """Add a node with one output, and return that. Arrays become constants."""
        return self.add_all(operator, 1, *inputs, domain=domain, **attributes)[0]

    def add_all(
        self,
        operator: str,
        outputs: int,
        *inputs: str | np.ndarray,
        domain: str = "",
        **attributes: Any,
    ) -> list[str]:
        """Add a node, and return its outputs."""
        names = [one if isinstance(one, str) else self._constant(one) for one in inputs]
        results = [self._new_name() for _ in range(outputs)]
        self._nodes.append(helper.make_node(operator, names, results, domain=domain, **attributes))
        if operator == "TreeEnsemble":
            self._opsets[ML] = _ML_OPSET_OF_TREES
        return results

    def embed(self, model: onnx.ModelProto, tensor: str) -> list[str]:
        """Add the nodes of a model with one input, fed by `tensor`; return its outputs."""
        model = compose.add_prefix(model, f"{self._new_name()}_")
        for opset in model.opset_import:
            self._opsets.setdefault(opset.domain, opset.version)
        [given] = model.graph.input
        self._nodes.append(helper.make_node("Identity", [tensor], [given.name]))
        self._nodes.extend(model.graph.node)
        self._constants.extend(model.graph.initializer)
        return [output.name for output in model.graph.output]

    def refuse_unless_zero(self, faults: str) -> None:
        """Refuse the rows in which `faults`, of shape (rows, 1), is NaN; elsewhere it is zero.

        A graph cannot raise: the answer to a refused row is NaN, and its label is -1.
        """
        self._faults.append(faults)

    @property
    def faults(self) -> str | None:
        """Shape (rows, 1): NaN in refused rows, zero elsewhere; None if no row can be refused."""
        if not self._faults:
            return None
        return self._faults[0] if len(self._faults) == 1 else self.add("Sum", *self._faults)

    def model(self, inputs: dict[str, tuple[int, int]], outputs: dict[str, str]) -> onnx.ModelProto:
        """The whole graph as a model.

        Args:
            inputs: element type and number of columns of each input.
            outputs: the tensor of each output.
        """
        for name, tensor in outputs.items():
            self._nodes.append(helper.make_node("Identity", [tensor], [name]))
        nodes, used = self._needed(outputs)
        graph = helper.make_graph(
            nodes,
            "model",
            [
                helper.make_tensor_value_info(name, type_, ["rows", columns])
                for name, (type_, columns) in inputs.items()
            ],
            [onnx.ValueInfoProto(name=name) for name in outputs],  # their types are inferred
            [constant for constant in self._constants if constant.name in used],
        )
        opsets = [helper.make_opsetid(domain, v) for domain, v in self._opsets.items()]
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)

    def _needed(self, outputs: Iterable[str]) -> tuple[list[onnx.NodeProto], set[str]]:
        """The nodes that the outputs depend on, in order, and the tensors that these use."""
        used = set(outputs)
        nodes = []
        for node in reversed(self._nodes):  # a node follows those that it depends on
            if used.intersection(node.output):
                used.update(_inputs(node))
                nodes.append(node)
        return nodes[::-1], used

    def _constant(self, array: np.ndarray) -> str:
        name = self._new_name()
        if array.dtype.kind == "O":
            self._constants.append(text_tensor(array, name))
        else:
            self._constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def _new_name(self) -> str:
        self._count += 1
        return f"t{self._count}"


def _inputs(node: onnx.NodeProto) -> Iterator[str]:
    """The tensors that a node uses, also in a graph of its own, such as the body of a `Scan`."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _inputs(inner)


def text_tensor(array: np.ndarray, name: str = "") -> onnx.TensorProto:
    """Make a tensor from an array of `str`."""
    values = [value.encode() for value in array.ravel()]
    return helper.make_tensor(name, TensorProto.STRING, array.shape, values)
