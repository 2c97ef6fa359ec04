"""The study file: its keys, its checks, and the training settings in it. No torch."""
