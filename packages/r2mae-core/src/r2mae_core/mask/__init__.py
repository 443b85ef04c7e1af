"""Which positions are hidden, and how much each of them counts in the loss."""
