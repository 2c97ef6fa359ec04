"""The training loop, and what methods share before they train: the trunk, its confusion, given weights."""
