"""How the learning rate moves over a run."""
