"""An artifact on disk: its card, its signature, its policy and its preprocessing."""
