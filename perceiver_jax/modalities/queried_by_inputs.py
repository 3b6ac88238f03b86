"""Outputs that are asked for by the inputs: one for each input token."""

from typing import Any

import haiku as hk
from jaxtyping import Array, Float

from perceiver_jax.modalities.base import OutputConfig
from perceiver_jax.nn.tokens import AnyTokens


class QueriedByInputs(OutputConfig):
  """What outputs whose queries are the input tokens have in common.

  Raw queries are `encoded.tokens`, all of them, or features [B, O, E] of some
  of `encoded.tokens.dense()`.
  """

  @property
  def is_queried_by_inputs(self) -> bool:
    return True


class QueriedByInputsModality(hk.Module):
  """Takes input tokens, or features of some of them, as queries."""

  def __init__(self, config: Any, name: str | None = None):
    super().__init__(name)
    self._config = config

  def num_queries(
    self, raw_queries: AnyTokens | Float[Array, 'B O E'] | None
  ) -> int:
    return _features(raw_queries).shape[1]

  def queries(
    self,
    raw_queries: AnyTokens | Float[Array, 'B O E'] | None,
    batch_size: int,
    num_channels: int,
  ) -> Float[Array, 'B O E']:
    features = _features(raw_queries)
    expected = (batch_size, num_channels)
    if features.ndim != 3 or features.shape[::2] != expected:
      raise ValueError(
        f'queries must have shape [{batch_size}, O, {num_channels}], '
        f'got {list(features.shape)}.'
      )
    return features


def _features(
  raw_queries: AnyTokens | Float[Array, 'B O E'] | None,
) -> Float[Array, 'B O E']:
  if raw_queries is None:
    raise ValueError(
      'queries must be the input tokens, encoded.tokens, or features of some '
      'of them, got None.'
    )
  if isinstance(raw_queries, AnyTokens):
    return raw_queries.dense()
  return raw_queries
