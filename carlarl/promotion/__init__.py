"""Promotion and rollback: another version becomes the active one."""
