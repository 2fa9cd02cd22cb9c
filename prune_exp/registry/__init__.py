"""Stored models: kept with their run, signed, registered, judged by gates, promoted.

Takes tracked trials and their checkpoints; gives registered versions and the aliases on them.
"""
