"""The command line, and the embedded Triton server that it starts."""
