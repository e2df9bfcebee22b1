"""The model repository on disk: its configs, its versions, and which of them is active."""
