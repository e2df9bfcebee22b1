"""Policies from other libraries → artifacts."""
