"""Conditional execution, and what it costs: meters, prices of blocks, shapes on the meta device."""
