"""The report's content, and its two renderings."""
