"""Prune language models by consensus, measure what it gains and costs, and track every claim."""

__version__ = "0.1.0"
