"""Routing methods: the interface, how one is priced and run, and what methods have in common."""
