"""Choosing a recipe: who is trained on, how often, and what each recipe costs."""
