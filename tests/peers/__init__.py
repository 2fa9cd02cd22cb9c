"""Other ways to prune, beside ours, on the same text: `python -m peers.compare --help`."""
