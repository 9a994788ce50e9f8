"""`training.batch: auto`: the micro-batch that is fastest here, found by real steps before training.

`search.py` decides which are tried, `steps.py` runs them, `put_back.py` leaves no trace of it, `remembered.py` keeps
the answer for this device and recipe.
"""
