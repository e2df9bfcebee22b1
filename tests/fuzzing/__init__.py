"""Inputs that no caller should send, made from a seed, and what must come back."""
