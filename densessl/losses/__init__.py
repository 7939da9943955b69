"""Losses: pure functions of tensors; state such as queues belongs to the model."""
