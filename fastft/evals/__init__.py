"""The parts of `fastft.evaluate`: what is asked, of which models, how it is scored, and what is shown and kept."""

SAMPLES = 100  # rows that are answered where nobody says how many
