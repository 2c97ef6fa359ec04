"""A study made ready to run: names resolved to classes and spaces, and what running it would cost."""
