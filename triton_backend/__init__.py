"""The code that Triton's Python backend runs. The converters use its preprocessing, too."""

import os

# ONNX Runtime reads it when it is imported; `disable_telemetry_events()` comes too late.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
