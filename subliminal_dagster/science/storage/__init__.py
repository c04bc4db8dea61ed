"""Where artifacts lie, who makes them, and what of them is garbage."""
