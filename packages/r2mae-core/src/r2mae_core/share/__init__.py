"""What leaves a run for other people: its summary, a model card, and the way to a hub."""
