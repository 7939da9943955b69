"""Checkpoints: exact, verified saving and resuming, and loading weights into other models."""
