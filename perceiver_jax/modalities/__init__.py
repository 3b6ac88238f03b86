"""One file per kind of input or output: its configs and modules."""
