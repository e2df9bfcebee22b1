"""Policies that see, against the plain alternative: `python -m perf.studies.images`."""
