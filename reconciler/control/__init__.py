"""What stands between a run and a control plane: the run request, its rules, who asks, and the reference server."""
