"""The Perceiver family in JAX and Haiku, as pure functions."""

__version__ = '0.1.0'
