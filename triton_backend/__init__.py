"""The Python code that Triton's Python backend runs; the converters share its preprocessing."""
