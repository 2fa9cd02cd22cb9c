"""Sweeps: what they cover, which trials are left, and what Optuna is asked and told.

Takes a command line's sweeps and intervals; gives trials to run and a summary of the study.
"""
