"""Number sequences: the prompts, drawing the answers, and the filter."""
