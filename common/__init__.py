"""What at least two methods need, and nothing else."""
