"""Rows become conversations, conversations become token ids with labels. Nothing here imports torch."""
