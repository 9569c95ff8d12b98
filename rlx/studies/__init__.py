"""Studies: papers made executable; a plan of runs and the claims that their results bear out or not."""
