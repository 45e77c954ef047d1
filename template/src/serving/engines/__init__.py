"""How rows are predicted: scikit-learn, pyfunc, ONNX Runtime, modern-ml-pipeline."""
