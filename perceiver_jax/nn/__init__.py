"""The building blocks: attention, layers, positions, resampling."""
