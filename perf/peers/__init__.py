"""Other ways to serve the same policy behind the same JSON."""
