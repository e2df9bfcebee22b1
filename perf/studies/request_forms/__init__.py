"""The same request in every form that callers give it: `python -m perf.studies.request_forms`."""
