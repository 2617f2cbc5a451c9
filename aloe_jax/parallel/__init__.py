"""Meshes and the one table of logical axes."""
