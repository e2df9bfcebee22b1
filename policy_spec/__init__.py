"""A policy's signature as data: observation space, action space, control mapping, state.

Standard library alone; only `policy_spec.noise` needs numpy.
"""
