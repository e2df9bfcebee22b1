"""An artifact on disk: read, checked, and never executed before it is checked."""
