"""Optimisation, state, steps, checkpoints, and the order of events."""
