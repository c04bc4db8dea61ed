"""Language models: where they come from, how they chat, how they generate and score."""
