"""Compiling: a scikit-learn model as an ONNX graph, with a proof that both answer alike."""
