"""The gateway: a JSON API in front of a policy that NVIDIA Triton serves."""
