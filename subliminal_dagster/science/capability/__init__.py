"""What children lose: an exam, and the loss on plain text."""
