"""Models compiled once, applied in batches of one size."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from perceiver_jax.build import PerceiverWithState, build_with_state
from perceiver_jax.config import from_json
from perceiver_jax.model import PerceiverConfig
from perceiver_jax.progress import Progress


def compiled(config: PerceiverConfig) -> PerceiverWithState:
  """Returns the functions of a model, jitted; for equal configs the same."""
  return _compiled(config.to_json())


@functools.lru_cache(maxsize=8)
def _compiled(text: str) -> PerceiverWithState:
  return PerceiverWithState(*map(jax.jit, build_with_state(from_json(text))))


def in_batches(
  function: Callable[[Any], Any],
  examples: Sequence[np.ndarray],
  batch_size: int,
  *,
  unit: str,
) -> np.ndarray:
  """Applies a function to examples, shows progress, and joins the results.

  Args:
    function: of a batch of `batch_size` examples; never of another number, so
      that it is compiled once.
    examples: of one shape; at least one.
    batch_size: the last batch is filled up with its last example.
    unit: what an example is, in plural.
  """
  if batch_size < 1:
    raise ValueError(f'batch_size must be at least 1, got {batch_size}.')
  starts = range(0, len(examples), batch_size)
  results = []
  with Progress(
    len(starts), batch_size, unit=unit, is_primary=len(starts) > 1
  ) as progress:
    for start in starts:
      batch = list(examples[start : start + batch_size])
      batch += batch[-1:] * (batch_size - len(batch))
      results.append(np.asarray(function(np.stack(batch))))
      progress.update(len(results))
  return np.concatenate(results)[: len(examples)]
