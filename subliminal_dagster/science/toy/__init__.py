"""Toy models of subliminal learning: the post's autoencoders with ablated and with auxiliary features, and classifiers
of handwritten digits. They need no language model, and a CPU trains them in seconds.
"""
