"""Lightning modules and what carries them through a fit. The one place that imports Lightning, inside `run()` only."""
