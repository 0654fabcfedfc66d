"""The asv suite: one module a noun. README.md says how to run it."""
