"""Another version becomes the active one."""
