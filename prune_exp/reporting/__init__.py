"""The performance report: Markdown, HTML, JSON and plots of what was tracked, nothing else.

Takes runs from the store; gives files, a note in the MLflow UI and a table on the terminal.
"""
