"""Runs as GitOps: committed run requests become runs, and runs become committed evidence."""

__version__ = "0.1.0"
