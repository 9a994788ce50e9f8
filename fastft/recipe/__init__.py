"""Recipes: one YAML file, checked whole before anything runs. No torch, transformers or trl is imported here."""
