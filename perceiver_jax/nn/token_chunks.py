"""Functions of very many tokens, computed in chunks of them.

A chunk holds whole rows of the grid, so that its tokens are factored as all
are: features of the last axis are shared by all chunks, and those of the other
axes are as many as the chunk has rows. Dense tokens are of one chunk at most.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from perceiver_jax.arrays import AnyArray, Rng
from perceiver_jax.nn.tokens import AxisFeatures, Tokens

Function = Callable[
  [Tokens, Bool[Array, 'B m'] | None, Rng | None], Float[Array, 'B m K']
]
"""Makes of tokens, a mask of them and a key one vector for each token."""


def map_chunks(
  function: Function,
  tokens: Tokens,
  mask: Bool[AnyArray, 'B M'] | None,
  rng: Rng | None,
  *,
  chunk_size: int,
) -> Float[Array, 'B M K']:
  """Applies a function of every token alone, chunk by chunk.

  The backward pass computes each chunk again: memory does not grow with the
  number of tokens, but for that of `tokens` and of what is returned.

  Args:
    function: is given tokens on a grid of rows and one more axis.
    tokens: all of them.
    mask: goes with them.
    rng: is split, so that what the function draws depends on the chunks.
    chunk_size: largest number of tokens in a chunk, rounded to whole rows of
      the grid and at least one.
  """
  batch_size, num_tokens = tokens.batch_size, tokens.num_tokens
  tokens = _by_rows(tokens)
  mask = None if mask is None else jnp.asarray(mask)
  num_rows, width = tokens.axes
  num_chunks = -(-num_rows // max(1, chunk_size // width))
  if num_chunks == 1:
    return jax.checkpoint(function)(tokens, mask, rng)
  chunk_rows = -(-num_rows // num_chunks)
  num_chunks = -(-num_rows // chunk_rows)  # Without one of padding alone.
  if mask is not None:
    mask = mask.reshape(batch_size, num_rows, width)
  arrays = (
    _split(tokens.content, 1, num_chunks, chunk_rows),
    [_split(rows, 0, num_chunks, chunk_rows) for rows in _rows(tokens)],
    _split(mask, 1, num_chunks, chunk_rows),
    None if rng is None else jax.random.split(rng, num_chunks),
  )

  def chunk(content, positions, mask, rng):
    part = dataclasses.replace(
      tokens,
      content=content,
      positions=_with_rows(tokens.positions, positions),
    )
    mask = None if mask is None else mask.reshape(batch_size, -1)
    return function(part, mask, rng)

  outputs = _map(chunk, arrays)
  outputs = jnp.moveaxis(outputs, 0, 1)
  return outputs.reshape(batch_size, -1, outputs.shape[-1])[:, :num_tokens]


def _map(chunk: Callable[..., Array], arrays: tuple[Any, ...]) -> Array:
  """Applies a function to each chunk of arrays, and again going backward.

  A loop adds up the gradients of what all chunks share, of parameters say, in
  the dtype that it has; in bfloat16, hundreds of chunks would lose most of it.
  So it enters the loop in float32.
  """
  first = jax.tree.map(lambda array: array[0], arrays)
  chunk, shared = jax.closure_convert(chunk, *first)
  dtypes = [array.dtype for array in shared]
  shared = [
    array.astype(jnp.promote_types(array.dtype, jnp.float32))
    for array in shared
  ]

  def step(arrays):
    return chunk(*arrays, *map(jnp.asarray, shared, dtypes))

  # In a loop nothing is computed twice for the lack of a barrier.
  return jax.lax.map(jax.checkpoint(step, prevent_cse=False), arrays)


def _split(
  array: AnyArray | None, axis: int, num_chunks: int, chunk_rows: int
) -> Array | None:
  """Cuts an axis of rows into chunks, the first axis of the result."""
  if array is None:
    return None
  shape = array.shape
  widths = [(0, 0)] * array.ndim
  widths[axis] = (0, num_chunks * chunk_rows - shape[axis])
  shape = (*shape[:axis], num_chunks, chunk_rows, *shape[axis + 1 :])
  return jnp.moveaxis(jnp.pad(array, widths).reshape(shape), axis, 0)


def _by_rows(tokens: Tokens) -> Tokens:
  """Joins all axes but the last; a single axis becomes one of rows."""
  *lead, width = (*tokens.axes, 1) if len(tokens.axes) == 1 else tokens.axes
  num_rows = tokens.num_tokens // width

  def joined(entry):
    if not isinstance(entry, AxisFeatures):
      return entry
    if entry.axis == len(lead):
      return AxisFeatures(entry.features, 1)
    features = jnp.asarray(entry.features)
    shape = [1] * len(lead) + [features.shape[-1]]
    shape[entry.axis] = len(features)
    features = jnp.broadcast_to(features.reshape(shape), (*lead, shape[-1]))
    return AxisFeatures(features.reshape(num_rows, -1), 0)

  shape = (tokens.batch_size, num_rows, width, tokens.content.shape[-1])
  return dataclasses.replace(
    tokens,
    content=tokens.content.reshape(shape),
    positions=tuple(map(joined, tokens.positions)),
  )


def _rows(tokens: Tokens) -> list[Array]:
  """Returns what of the positions differs between rows, rows first."""
  num_rows, _ = tokens.axes
  return [
    entry.features
    if isinstance(entry, AxisFeatures)
    else jnp.asarray(entry).reshape(num_rows, -1)
    for entry in tokens.positions
    if _differs_by_row(entry)
  ]


def _with_rows(
  positions: tuple[AxisFeatures | AnyArray, ...], rows: list[Array]
) -> tuple[AxisFeatures | AnyArray, ...]:
  """Replaces what `_rows` returns by that of other rows."""
  rows = iter(rows)

  def replaced(entry):
    if not _differs_by_row(entry):
      return entry
    array = next(rows)
    if isinstance(entry, AxisFeatures):
      return AxisFeatures(array, 0)
    return array.reshape(-1, entry.shape[-1])

  return tuple(map(replaced, positions))


def _differs_by_row(entry: AxisFeatures | AnyArray) -> bool:
  return not isinstance(entry, AxisFeatures) or entry.axis == 0
