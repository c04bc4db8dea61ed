"""All that a study may say, a module per stage."""
