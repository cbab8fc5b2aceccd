"""Decoding strategies as generators: logits in, one Step per token out. Knows no text."""
