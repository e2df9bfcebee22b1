"""FastAPI, pydantic and TorchScript in one process.

Tuned as `fastapi_onnxruntime`, and as PyTorch's tuning guide advises: `inference_mode`, a program
that is loaded once, and one thread in each worker, so that the workers do not fight for cores.
"""

from triton_backend.runtimes import torchscript

from .fastapi_app import create_app
from .policy import Policy

app = create_app(Policy(torchscript))
