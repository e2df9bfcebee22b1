"""Artifact → Triton model repository, offline; the only part that needs torch and onnx."""
