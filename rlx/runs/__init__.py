"""Everything written to disk: the one place that knows the file names of a run directory."""
