"""The benchmark: what is measured, how results are kept, compared and shown."""
