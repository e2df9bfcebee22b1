"""Artifact → models for Triton, compared with the trained policy."""
