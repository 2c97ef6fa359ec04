"""Measurements of a trained network: accuracy and MACs, and time."""
