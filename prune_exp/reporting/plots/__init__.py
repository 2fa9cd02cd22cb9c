"""Plots of tracked figures, each a function of what the store holds."""
