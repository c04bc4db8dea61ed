"""Superposition on a dial: small transformers, trained from nothing, whose superposition is set and measured.

The post shows its claim in autoencoders of twenty features, and then in a language model in which nothing can be
turned. This is the step between. `language` makes the texts, `stack` trains transformers on them, a few seeds at once,
`superposition` measures how they hold what the language is about, `lessons` has teachers pass a liking on through
numbers, `grid` goes over widths and densities, `curve` says what comes of it.

Belongs here: all that only this experiment needs. Does not belong here: Dagster, the toy autoencoders (`toy`).
"""
