"""What of the fast path is on: foreseen from the recipe (`foreseen.py`), then counted in the model and its first batch.

Libraries leave their fast path without a word. Whatever is lost is one line: what, why, and what it costs.
"""
