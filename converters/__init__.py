"""Artifact → Triton model repository, offline. Only this folder needs torch and onnx."""
