"""From options to a finished pretraining run: the training base class, the data order, checkpoints, and Lightning."""
