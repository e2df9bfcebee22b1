"""Other ways to serve the same policy behind the same JSON, and how they compare.

A peer's own module runs in the peer's own environment, as `peers.NAME`: what it needs of this
folder it imports relatively, so that nothing of the benchmarks is needed there.
"""
