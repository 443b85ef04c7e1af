"""The linear model behind mask-based pretraining."""
