"""Kubernetes: the engine against a stand-in of the API server, and against any cluster (`make test-kubernetes`)."""
