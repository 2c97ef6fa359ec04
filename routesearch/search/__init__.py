"""The search: a durable journal, Optuna samplers that learn from it, and Ray Tune trials that fill it."""
