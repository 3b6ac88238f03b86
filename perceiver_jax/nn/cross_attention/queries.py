"""Which algorithm deals with very many queries."""

import enum

from perceiver_jax.nn.cross_attention.absorbed import Absorbed
from perceiver_jax.nn.cross_attention.absorption import AbsorbingInputs
from perceiver_jax.nn.cross_attention.separable import (
  Separable,
  is_separable,
  num_content_channels,
)
from perceiver_jax.nn.tokens import Tokens

_MAX_WEIGHTS = 2**26
"""More attention weights than this in a batch are not computed at once."""

_MIN_ABSORBED_WEIGHTS = 2**22
"""With fewer weights in a batch it is not worth the while to absorb."""

_MIN_CHUNK = 128
_CHUNK_WEIGHTS = 2**21
"""Attention weights of a batch in a chunk of queries.

On a CPU half as many are as fast, twice as many a little slower, by
`benchmarks/decoder.py`. Accelerators, not measured, may like larger chunks.
"""


class QueryAlgorithm(enum.Enum):
  """How very many queries read few inputs.

  All give the same numbers, but dropout is drawn anew in each chunk.

  Attributes:
    AUTO: the cheapest by the shapes at hand.
    PLAIN: all queries at once, as published.
    CHUNKED: in chunks, each computed again in the backward pass.
    ABSORBED: as CHUNKED, and the keys of the inputs absorb the projection of
      the queries; queries that are features of a grid are never built.
  """

  AUTO = enum.auto()
  PLAIN = enum.auto()
  CHUNKED = enum.auto()
  ABSORBED = enum.auto()


def choose(
  algorithm: QueryAlgorithm,
  queries: Tokens,
  *,
  batch_size: int,
  num_inputs: int,
  num_heads: int,
  qk_channels: int,
  can_absorb: bool,
  chunk_size: int | None,
) -> QueryAlgorithm:
  """Chooses an algorithm, if that is left open.

  Args:
    algorithm: what is asked for.
    queries: all of them.
    batch_size: number B of examples.
    num_inputs: number N of inputs.
    num_heads: number H.
    qk_channels: channels of projected queries over all heads.
    can_absorb: whether how the inputs are read is open as well.
    chunk_size: number of queries in a chunk, if asked for: then they are not
      read all at once.
  """
  if algorithm is not QueryAlgorithm.AUTO:
    return algorithm
  num_rows = num_heads * num_inputs
  num_weights = batch_size * queries.num_tokens * num_rows
  # Products for one query.
  projected = qk_channels * (queries.num_channels + num_inputs)
  own = queries.num_channels
  if is_separable(queries):
    own = num_content_channels(queries)
  pays = own * num_rows < projected and num_weights > _MIN_ABSORBED_WEIGHTS
  if can_absorb and pays:
    return QueryAlgorithm.ABSORBED
  if chunk_size is not None or num_weights > _MAX_WEIGHTS:
    return QueryAlgorithm.CHUNKED
  return QueryAlgorithm.PLAIN


def prepare_queries(queries: Tokens) -> AbsorbingInputs:
  """Prepares queries to be multiplied with keys that absorbed projections."""
  if is_separable(queries):
    return Separable.prepare(queries)
  return Absorbed.prepare(queries.dense())


def chunk_size(num_weights: int) -> int:
  """Returns how many queries make chunks that suit the caches.

  In fewer than 128, what all chunks read would be read too often.

  Args:
    num_weights: of attention for one query, in all heads and examples.
  """
  return max(_MIN_CHUNK, _CHUNK_WEIGHTS // num_weights)
