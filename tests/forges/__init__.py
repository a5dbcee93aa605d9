"""Forges: what we ask of them, against their own descriptions of what may be asked."""
