"""Where the runs of a plan are carried out: here in sequence, here in parallel, or as Slurm job arrays."""
