from triton_backend.policy import OnnxPolicy as TritonPythonModel
