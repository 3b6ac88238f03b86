"""One file per objective: what to feed the model, its loss, its metrics."""
