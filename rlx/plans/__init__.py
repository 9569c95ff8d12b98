"""Plans: lists of runs with their parents, and how they are carried out."""
