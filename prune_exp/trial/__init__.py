"""One trial, from its settings to its result, and what happens around it.

Takes the whole settings; joins all other rooms; gives a tracked, reported and registered result.
"""
