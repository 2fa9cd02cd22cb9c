"""Both models measured: speed and memory in turns in fresh processes, quality on held-out text.

Takes two checkpoints or models and what to ask of them; gives figures with 95 % intervals.
"""
