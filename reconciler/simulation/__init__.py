"""A simulated world: the same passes on fake clocks, disks, processes and repositories, with faults by seed."""
