"""Logits to scores: penalties, masks and warpers on one row (vocab,), and drawing from it."""
