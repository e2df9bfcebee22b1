"""A policy from another library → artifact."""
