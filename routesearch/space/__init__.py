"""Search spaces: which configs a method has on a backbone, and how a sampler draws them."""
