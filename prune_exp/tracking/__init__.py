"""Runs in MLflow: opened, filled with all that a trial found, read back, ended when killed.

Takes results and settings by name; gives runs, and trials as the store has them.
"""
