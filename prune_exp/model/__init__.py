"""Decoder models: found, loaded, taken apart by family, put together anew, written.

Takes a model's settings or a checkpoint folder; gives stock transformers models and their shapes.
"""
