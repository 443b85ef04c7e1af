"""`sweep`: short trainings that find the mask ratio for a user's data and task, on Optuna."""
