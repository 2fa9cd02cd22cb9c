"""Pruned models as files that people run: written, opened in a fresh process, compared, kept.

Takes a stored model; gives a folder with a file or folder for every runtime that was asked for.
"""
