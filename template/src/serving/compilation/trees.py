"""Convert trees: compare and add in double precision, as scikit-learn does."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from serving.compilation.graph import ML, Graph


@dataclass(frozen=True)
class Tree:
    """One tree; every array has one entry per node."""

    feature: np.ndarray
    threshold: np.ndarray
    """Values up to the threshold go left."""
    missing_left: np.ndarray
    """Whether missing values go left."""
    left: np.ndarray
    right: np.ndarray
    is_leaf: np.ndarray
    value: np.ndarray
    """Shape (nodes, outputs)."""


def of_sklearn(tree: Any, scale: float = 1.0) -> Tree:
    """The tree inside a `DecisionTree` or `ExtraTree`; its values times `scale`."""
    values = tree.value[:, :, 0] if tree.max_n_classes == 1 else tree.value[:, 0, :]
    return Tree(
        tree.feature,
        tree.threshold,
        tree.missing_go_to_left.astype(bool),
        tree.children_left,
        tree.children_right,
        tree.children_left == -1,
        values * scale,
    )


def of_histogram(nodes: np.ndarray) -> Tree:
    """The nodes of a tree of histogram-based gradient boosting."""
    return Tree(
        nodes["feature_idx"],
        nodes["num_threshold"],
        nodes["missing_go_to_left"].astype(bool),
        nodes["left"].astype(np.int64),
        nodes["right"].astype(np.int64),
        nodes["is_leaf"].astype(bool),
        nodes["value"][:, None],
    )


def add_up(graph: Graph, x: str, trees: Sequence[Tree], targets: Sequence[int]) -> str:
    """Add up trees with one output each, in double precision.

    Args:
        graph: the nodes are added to it.
        x: shape (rows, features), doubles.
        trees: in the order in which they are added up.
        targets: the column of the result to which each tree contributes.

    Returns the tensor, of shape (rows, columns).
    """
    features: list[int] = []
    splits: list[float] = []
    missing: list[int] = []
    true_ids: list[int] = []
    true_leafs: list[int] = []
    false_ids: list[int] = []
    false_leafs: list[int] = []
    weights: list[float] = []
    leaf_targets: list[int] = []
    roots: list[int] = []
    for tree, target in zip(trees, targets, strict=True):
        roots.append(len(features))
        inner = np.flatnonzero(~tree.is_leaf)
        leaves = np.flatnonzero(tree.is_leaf)
        place = np.empty(len(tree.is_leaf), dtype=np.int64)
        place[inner] = np.arange(len(inner)) + len(features)
        place[leaves] = np.arange(len(leaves)) + len(weights)
        weights += tree.value[leaves, 0].tolist()
        leaf_targets += [target] * len(leaves)
        if not len(inner):  # a single leaf becomes a split with this leaf on both sides
            features.append(0)
            splits.append(0.0)
            missing.append(0)
            for ids, flags in ((true_ids, true_leafs), (false_ids, false_leafs)):
                ids.append(int(place[0]))
                flags.append(1)
            continue
        features += tree.feature[inner].tolist()
        splits += tree.threshold[inner].tolist()
        missing += tree.missing_left[inner].astype(int).tolist()
        true_ids += place[tree.left[inner]].tolist()
        true_leafs += tree.is_leaf[tree.left[inner]].astype(int).tolist()
        false_ids += place[tree.right[inner]].tolist()
        false_leafs += tree.is_leaf[tree.right[inner]].astype(int).tolist()
    return graph.add(
        "TreeEnsemble",
        x,
        domain=ML,
        n_targets=max(targets) + 1,
        tree_roots=roots,
        nodes_featureids=features,
        nodes_modes=helper.make_tensor(
            "modes", TensorProto.UINT8, [len(features)], [0] * len(features)
        ),
        nodes_splits=_doubles(splits),
        nodes_missing_value_tracks_true=missing,
        nodes_truenodeids=true_ids,
        nodes_trueleafs=true_leafs,
        nodes_falsenodeids=false_ids,
        nodes_falseleafs=false_leafs,
        leaf_targetids=leaf_targets,
        leaf_weights=_doubles(weights),
    )


def vote(graph: Graph, x: str, trees: Sequence[Tree]) -> tuple[str, str]:
    """Add up trees with a value for each class.

    Returns the position of the greatest sum, found in double precision, of shape (rows,), and the
    sums, of shape (rows, classes), in single precision.
    """
    classes = trees[0].value.shape[1]
    # With two classes, ONNX Runtime chooses the second if its sum is above 0.5. So there are at
    # least three classes; no leaf votes for the third.
    at_least = max(3, classes)
    label, sums = graph.add_all(
        "TreeEnsembleClassifier",
        2,
        x,
        domain=ML,
        classlabels_int64s=list(range(at_least)),
        **_old_nodes(trees),
        **_old_leaves(trees, "class"),
    )
    if classes < at_least:
        sums = graph.add("Gather", sums, np.arange(classes), axis=1)
    return label, sums


def add_up_many(graph: Graph, x: str, trees: Sequence[Tree]) -> str:
    """Add up trees with several outputs, in single precision; shape (rows, outputs)."""
    return graph.add(
        "TreeEnsembleRegressor",
        x,
        domain=ML,
        n_targets=trees[0].value.shape[1],
        **_old_nodes(trees),
        **_old_leaves(trees, "target"),
    )


def _old_nodes(trees: Sequence[Tree]) -> dict[str, Any]:
    """The nodes for operators older than `TreeEnsemble`, whose leaves have a single output."""

    def all_of(arrays: Sequence[np.ndarray]) -> list[Any]:
        return list(np.concatenate(arrays).tolist())

    leaves = [tree.is_leaf for tree in trees]
    return {
        "nodes_treeids": all_of([np.full(len(x), index) for index, x in enumerate(leaves)]),
        "nodes_nodeids": all_of([np.arange(len(x)) for x in leaves]),
        "nodes_featureids": all_of([np.where(tree.is_leaf, 0, tree.feature) for tree in trees]),
        "nodes_values_as_tensor": _doubles(
            all_of([np.where(tree.is_leaf, 0.0, tree.threshold) for tree in trees])
        ),
        "nodes_modes": ["LEAF" if is_leaf else "BRANCH_LEQ" for is_leaf in all_of(leaves)],
        "nodes_missing_value_tracks_true": all_of([t.missing_left.astype(int) for t in trees]),
        "nodes_truenodeids": all_of([np.where(t.is_leaf, 0, t.left) for t in trees]),
        "nodes_falsenodeids": all_of([np.where(t.is_leaf, 0, t.right) for t in trees]),
    }


def _old_leaves(trees: Sequence[Tree], kind: str) -> dict[str, Any]:
    tree_ids, node_ids, ids = [], [], []
    weights: list[float] = []
    for index, tree in enumerate(trees):
        leaves = np.flatnonzero(tree.is_leaf)
        outputs = tree.value.shape[1]
        tree_ids += [index] * (len(leaves) * outputs)
        node_ids += np.repeat(leaves, outputs).tolist()
        ids += list(range(outputs)) * len(leaves)
        weights += tree.value[leaves].ravel().tolist()
    return {
        f"{kind}_treeids": tree_ids,
        f"{kind}_nodeids": node_ids,
        f"{kind}_ids": ids,
        f"{kind}_weights_as_tensor": _doubles(weights),
    }


def _doubles(values: Sequence[float]) -> Any:
    return helper.make_tensor("doubles", TensorProto.DOUBLE, [len(values)], values)
