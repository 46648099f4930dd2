"""Training, checkpoints and prediction."""
