"""From a dense model to a smaller one: calibrate, score, vote, cut, refit.

Takes a request, the dense model and its text; gives the pruned model with the plan it was made by.
"""
