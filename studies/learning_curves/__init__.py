"""Learning curves of text pretraining against Hugging Face's own logic."""
