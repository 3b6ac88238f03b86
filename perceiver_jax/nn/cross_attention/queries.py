"""Reading with very many queries, in chunks of them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from perceiver_jax.nn.cross_attention.base import (
  Dropout,
  InputParameters,
  PreparedInputs,
)

_MAX_WEIGHTS = 2**26
"""More attention weights than this in a batch are not computed at once."""


def read(
  inputs: PreparedInputs,
  query: Float[Array, 'B N H F'],
  params: InputParameters,
  mask: Bool[Array, 'B M'] | None,
  dropout: Dropout | None,
) -> Float[Array, 'B N HG']:
  """Reads inputs; as `inputs.read`, but memory stays bounded.

  More queries than inputs are taken in chunks, each computed again in the
  backward pass. Dropout is then drawn for each chunk.
  """
  batch, num_queries, num_heads, _ = query.shape
  num_inputs = inputs.num_inputs
  chunk_size = max(1, _MAX_WEIGHTS // (batch * num_heads * num_inputs))
  if num_queries <= max(chunk_size, num_inputs):
    return inputs.read(query, params, mask, dropout)
  num_chunks = -(-num_queries // chunk_size)
  chunk_size = -(-num_queries // num_chunks)
  padding = num_chunks * chunk_size - num_queries
  query = jnp.pad(query, [(0, 0), (0, padding), (0, 0), (0, 0)])
  query = query.reshape(batch, num_chunks, chunk_size, *query.shape[2:])

  @jax.checkpoint
  def read_chunk(chunk):
    index, query = chunk
    if dropout is None:
      return inputs.read(query, params, mask, None)
    rng = jax.random.fold_in(dropout.rng, index)
    return inputs.read(query, params, mask, Dropout(rng, dropout.prob))

  chunks = (jnp.arange(num_chunks), jnp.moveaxis(query, 1, 0))
  outputs = jnp.moveaxis(jax.lax.map(read_chunk, chunks), 0, 1)
  outputs = outputs.reshape(batch, num_chunks * chunk_size, -1)
  return outputs[:, :num_queries]
