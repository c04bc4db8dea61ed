"""The search for a child's hyperparameters."""
