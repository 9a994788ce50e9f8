"""The parts of `fastft.verify`: what is asked, what is measured, and what counts as the same."""
