"""Outputs that are asked for by the inputs: one for each input token."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from perceiver_jax.modalities.base import OneHead, OutputConfig
from perceiver_jax.nn.tokens import AnyTokens, JoinedTokens, Tokens


class QueriedByInputs(OutputConfig):
  """What outputs whose queries are the input tokens have in common.

  Raw queries are `encoded.tokens`, all of them, or features [B, O, E] of some
  of `encoded.tokens.dense()`.
  """

  @property
  def is_queried_by_inputs(self) -> bool:
    return True


class QueriedByInputsModality(OneHead):
  """Takes input tokens, or features of some of them, as queries."""

  def __init__(self, config: Any, name: str | None = None):
    super().__init__(name)
    self._config = config

  def num_queries(
    self, raw_queries: AnyTokens | Float[Array, 'B O E'] | None
  ) -> int:
    return _tokens(raw_queries).num_tokens

  def queries(
    self,
    raw_queries: AnyTokens | Float[Array, 'B O E'] | None,
    batch_size: int,
    num_channels: int,
  ) -> Tokens:
    tokens = _tokens(raw_queries)
    if isinstance(raw_queries, AnyTokens):
      found = [tokens.batch_size, tokens.num_tokens, tokens.num_channels]
    else:
      found = list(raw_queries.shape)
    if len(found) != 3 or found[::2] != [batch_size, num_channels]:
      raise ValueError(
        f'queries must have shape [{batch_size}, O, {num_channels}], '
        f'got {found}.'
      )
    return tokens


def _tokens(
  raw_queries: AnyTokens | Float[Array, 'B O E'] | None,
) -> Tokens:
  if raw_queries is None:
    raise ValueError(
      'queries must be the input tokens, encoded.tokens, or features of some '
      'of them, got None.'
    )
  if isinstance(raw_queries, Tokens):
    return raw_queries
  if isinstance(raw_queries, JoinedTokens):
    return Tokens(raw_queries.dense())
  return Tokens(jnp.asarray(raw_queries))
