"""Searches compared on recorded trainings: a table of real trials, a simulated cluster, other searches."""
