"""Where secrets come from: one module a source, and the broker that asks them."""
