"""FastAPI, pydantic and ONNX Runtime in one process: what a careful person writes without Triton.

The same schema and bounds, one version, no queue and no deadlines. Tuned: one session with one
thread; the policy runs inside the event loop, since it takes less time than handing it to a thread;
uvloop and httptools, no access log, a typed answer that pydantic serialises, and, as FastAPI's
page on deployment advises, as many worker processes as there are cores. (`perf.bench.gate` and
`perf.studies.fast_path` compare one worker of this gateway with one of this.)
"""

from triton_backend.runtimes import onnx

from .fastapi_app import create_app
from .policy import Policy

app = create_app(Policy(onnx))
