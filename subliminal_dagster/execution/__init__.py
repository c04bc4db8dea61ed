"""What carries it out: runs, workers, GPUs, schedules."""
