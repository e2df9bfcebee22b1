"""The code that Triton's Python backend runs. The converters use its preprocessing, too."""
