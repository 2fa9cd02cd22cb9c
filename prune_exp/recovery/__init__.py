"""Training after pruning, towards the dense model's next-token distributions.

Takes a pruned model and the dense one's text; changes the model in place, gives a record of it.
"""
