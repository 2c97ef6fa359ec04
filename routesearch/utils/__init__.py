"""Helpers that know nothing of routing: settings and their errors, arrays on disk, cores and devices."""
