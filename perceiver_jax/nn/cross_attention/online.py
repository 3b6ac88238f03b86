"""An online softmax over chunks of tokens, with a written backward pass.

Row r gives the token m with the coordinates l and x the logit

  s_m (row_r . content_m + lead_l,r + last_x,r)

with an optional factor s_m of the token and, for tokens on a grid of L times X,
optional terms of its lead and last coordinate. What is read are the sums over
tokens of weights times factors, times the token's content (`content`), by lead
and by last coordinate (`lead`, `last`), and of the weights alone (`total`);
besides, the logarithm of the softmax's denominator, by which what was read of
other tokens can be added. Only a chunk of weights is in memory at a time; the
backward pass computes them again.

Weights have rows as their last axis, and every maximum and sum is over one
other axis. XLA vectorises these on a CPU; those over a last axis or over two
axes at once, and products of few columns, took four times as long.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from perceiver_jax.nn.cross_attention.base import MASKED_LOGIT, Dropout

_CHUNK_WEIGHTS = 2**19


class Factors(NamedTuple):
  """What logits are made of; see the module.

  Attributes:
    rows: multiplied with `content`; of its dtype.
    content: of each token.
    scale: the factor of each token, float32; None: 1.
    lead: the terms of the lead coordinate, float32; None: 0.
    last: the terms of the last coordinate; given if and only if `lead` is.
  """

  rows: Float[Array, 'B R C']
  content: Float[Array, 'B *tokens C']
  scale: Float[Array, 'B *tokens'] | None = None
  lead: Float[Array, 'B L R'] | None = None
  last: Float[Array, 'B X R'] | None = None


class Sums(NamedTuple):
  """What is read; see the module. All float32."""

  content: Float[Array, 'B R C']
  total: Float[Array, 'B R']
  lead: Float[Array, 'B L R'] | None = None
  last: Float[Array, 'B X R'] | None = None


def chunk_size(rows: Float[Array, 'B R C']) -> int:
  """Returns how many tokens make chunks of weights that suit the caches.

  Measured on a CPU by `benchmarks/cross_attention.py`.
  """
  return max(128, _CHUNK_WEIGHTS // (rows.shape[0] * rows.shape[1]))


def read(
  factors: Factors,
  mask: Bool[Array, 'B M'] | None,
  dropout: Dropout | None,
  *,
  chunk_size: int,
) -> tuple[Sums, Float[Array, 'B R']]:
  """Reads tokens in chunks.

  Args:
    factors: what logits are made of, with one axis of tokens.
    mask: which tokens to use; an example without any gets zeros.
    dropout: of weights, independent of the chunk size; None: none.
    chunk_size: largest number of tokens in a chunk; on a grid, rounded to
      whole lead coordinates.

  Returns:
    The sums, and the logarithm of the sum of exp(logit) over all used tokens,
    `MASKED_LOGIT` without any; float32, and differentiable (in reverse mode)
    in `factors`.
  """
  num_tokens = factors.content.shape[1]
  if factors.lead is None:
    # A line is laid out as a grid whose lead coordinate counts the chunks.
    num_chunks = -(-num_tokens // chunk_size)
    num_lead, lead_size = num_chunks, 1
    width = -(-num_tokens // num_chunks)
  else:
    width = factors.last.shape[1]
    num_lead = num_tokens // width
    num_chunks = -(-num_lead // max(1, chunk_size // width))
    lead_size = -(-num_lead // num_chunks)
  padding = num_chunks * lead_size * width - num_tokens
  if padding and mask is None:
    mask = jnp.ones(factors.content.shape[:2], bool)

  def on_grid(array):
    if array is None:
      return None
    array = _padded(array, padding)
    return array.reshape(len(array), -1, width, *array.shape[2:])

  factors = factors._replace(
    content=on_grid(factors.content),
    scale=on_grid(factors.scale),
    lead=_padded(factors.lead, padding // width),
  )
  sums, log_sum = _read(lead_size, factors, on_grid(mask), dropout)
  if padding and sums.lead is not None:
    sums = sums._replace(lead=sums.lead[:, :num_lead])
  return sums, log_sum


def matmul(equation: str, first: Array, second: Array) -> Array:
  """Multiplies in the dtype of the second array, with float32 sums."""
  return jnp.einsum(
    equation,
    first.astype(second.dtype),
    second,
    preferred_element_type=jnp.float32,
  )


def _padded(array: Array | None, count: int) -> Array | None:
  """Appends zeros to the axis after the batch."""
  if array is None:
    return None
  return jnp.pad(array, [(0, 0), (0, count)] + [(0, 0)] * (array.ndim - 2))


class _Chunk(NamedTuple):
  """The part of the factors, mask and dropout that belongs to a chunk."""

  factors: Factors
  mask: Bool[Array, 'B l X'] | None
  dropped: Float[Array, 'B l X R'] | None

  def products(
    self, rows: Array, lead: Array | None, last: Array | None
  ) -> Float[Array, 'B l X R']:
    """Returns row . content + lead + last for each token and row."""
    products = matmul('blxc,brc->blxr', self.factors.content, rows)
    if lead is None:
      return products
    return products + lead[:, :, None] + last[:, None]

  def logits(self, products: Array) -> Array:
    logits = self.scaled(products)
    if self.mask is None:
      return logits
    return jnp.where(self.mask[..., None], logits, MASKED_LOGIT)

  def weights(self, products: Array, log_sum: Array) -> Array:
    """Returns the softmax; where all tokens are masked, zeros."""
    log_sum = jnp.where(log_sum == MASKED_LOGIT, 0.0, log_sum)
    return jnp.exp(self.logits(products) - log_sum[:, None, None])

  def scaled(self, array: Array) -> Array:
    scale = self.factors.scale
    return array if scale is None else array * scale[..., None]

  def with_dropout(self, weights: Array) -> Array:
    return weights if self.dropped is None else weights * self.dropped

  def sums(self, weights: Array) -> tuple[Array, Array | None, Array | None]:
    """Returns sums times content, by lead and by last coordinate."""
    content = self.factors.content
    width, num_channels = content.shape[2:]
    if num_channels > width:
      content = matmul('blxr,blxc->bcr', weights, content)
    else:
      # As long as these are smaller than the weights, products of each lead
      # coordinate are faster: XLA copies and transposes less on a CPU.
      content = matmul('blxr,blxc->blcr', weights, content)
      content = jnp.sum(content, axis=1)
    if self.factors.lead is None:
      return content, None, None
    return content, jnp.sum(weights, axis=2), jnp.sum(weights, axis=1)


def _chunk(
  index: Int[Array, ''],
  lead_size: int,
  factors: Factors,
  mask: Array | None,
  dropout: Dropout | None,
) -> _Chunk:
  start = index * lead_size
  part = functools.partial(_part, start=start, size=lead_size)
  content = part(factors.content)
  dropped = None
  if dropout is not None:
    batch, num_rows, _ = factors.rows.shape
    shape = content.shape[1:3]
    tokens = start * shape[1] + jnp.arange(shape[0] * shape[1])
    dropped = dropout.factors(tokens, (batch, num_rows))
    dropped = jnp.moveaxis(dropped, 1, 2).reshape(batch, *shape, num_rows)
  factors = factors._replace(
    content=content, scale=part(factors.scale), lead=part(factors.lead)
  )
  return _Chunk(factors, part(mask), dropped)


def _part(array: Array | None, start: Array, size: int) -> Array | None:
  if array is None:
    return None
  return jax.lax.dynamic_slice_in_dim(array, start, size, axis=1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _read(lead_size, factors, mask, dropout) -> tuple[Sums, Array]:
  return _forward(lead_size, factors, mask, dropout)[0]


def _forward(lead_size, factors, mask, dropout) -> tuple[Any, Any]:
  """Returns what is read and what the backward pass needs."""
  rows, last = factors.rows, factors.last
  batch, num_rows, num_channels = rows.shape
  num_chunks = factors.content.shape[1] // lead_size

  def step(carry, index):
    maximum, denominator, total, content, by_last = carry
    chunk = _chunk(index, lead_size, factors, mask, dropout)
    logits = chunk.logits(chunk.products(rows, chunk.factors.lead, last))
    # Compared with `maximum` in between, lest XLA make it one of two axes.
    new_maximum = jnp.max(logits, axis=2)
    new_maximum = jnp.max(jnp.maximum(maximum[:, None], new_maximum), axis=1)
    weights = jnp.exp(logits - new_maximum[:, None, None])
    decay = jnp.exp(maximum - new_maximum)
    denominator = denominator * decay[:, None] + jnp.sum(weights, axis=2)
    if dropout is not None:
      weights = chunk.with_dropout(weights)
      total = total * decay[:, None] + jnp.sum(weights, axis=2)
    add = chunk.sums(chunk.scaled(weights))
    content = content * decay[:, None] + add[0]
    if by_last is not None:
      by_last = by_last * decay[:, None] + add[2]
    carry = (new_maximum, denominator, total, content, by_last)
    return carry, (new_maximum, add[1])

  zeros = jnp.zeros((batch, lead_size, num_rows), jnp.float32)
  start = (
    zeros[:, 0] + MASKED_LOGIT,
    zeros,
    None if dropout is None else zeros,
    jnp.zeros((batch, num_channels, num_rows), jnp.float32),
    None if last is None else jnp.zeros_like(last),
  )
  end, (maxima, by_lead) = jax.lax.scan(step, start, jnp.arange(num_chunks))
  maximum, denominator, total, content, by_last = end
  denominator = jnp.sum(denominator, axis=1)
  # A weight that a mask excludes is exactly zero once a used token was seen;
  # without any, the sums are of excluded tokens and are dropped here.
  usable = True if mask is None else jnp.any(mask, axis=(1, 2))[:, None]
  factor = jnp.where(usable, 1.0 / denominator, 0.0)
  log_sum = jnp.where(usable, maximum + jnp.log(denominator), MASKED_LOGIT)
  if by_lead is not None:
    late = jnp.exp(maxima - maximum) * factor
    by_lead = _joined(by_lead * late[:, :, None])
    by_last = by_last * factor[:, None]
  total = factor * (denominator if total is None else jnp.sum(total, axis=1))
  content = jnp.moveaxis(content * factor[:, None], 1, 2)
  sums = Sums(content, total, by_lead, by_last)
  return (sums, log_sum), (factors, mask, dropout, sums, log_sum)


def _backward(lead_size, residuals, cotangents) -> tuple[Any, None, None]:
  factors, mask, dropout, sums, log_sum = residuals
  cotangents, d_log_sum = cotangents
  if dropout is None:
    # The total is a constant: its gradient would be rounding noise.
    cotangents = cotangents._replace(total=jnp.zeros_like(cotangents.total))
  rows, last = factors.rows, factors.last
  chunks = jnp.arange(factors.content.shape[1] // lead_size)
  # Cotangents of logits sum to 0 only if those of weights and their average
  # come of the same rounded numbers; the barrier keeps XLA from undoing that.
  d_read = jax.lax.optimization_barrier(cotangents.content.astype(rows.dtype))
  cotangents = cotangents._replace(content=d_read.astype(jnp.float32))
  inner = _inner_products(sums, cotangents) - d_log_sum
  inner, d_total = inner[:, None, None], cotangents.total[:, None, None]

  def step(carry, index):
    chunk = _chunk(index, lead_size, factors, mask, dropout)
    products = chunk.products(rows, chunk.factors.lead, last)
    weights = chunk.weights(products, log_sum)
    d_lead = _part(cotangents.lead, index * lead_size, lead_size)
    d_scaled = chunk.products(d_read, d_lead, cotangents.last)
    d_weights = chunk.scaled(d_scaled) + d_total
    d_logits = weights * (chunk.with_dropout(d_weights) - inner)
    weights = chunk.with_dropout(weights)
    d_products = chunk.scaled(d_logits)
    d_rows, d_lead, d_last = chunk.sums(d_products)
    d_content = matmul('blxr,brc->blxc', d_products, rows) + matmul(
      'blxr,brc->blxc', chunk.scaled(weights), d_read
    )
    d_scale = None
    if factors.scale is not None:
      d_scale = jnp.sum(d_logits * products + weights * d_scaled, axis=3)
    add = (d_rows, d_last)
    return jax.tree.map(jnp.add, carry, add), (d_content, d_scale, d_lead)

  start = (
    jnp.zeros((*rows.shape[::2], rows.shape[1]), jnp.float32),
    None if last is None else jnp.zeros_like(last),
  )
  carry, (d_content, d_scale, d_lead) = jax.lax.scan(step, start, chunks)
  d_factors = Factors(
    jnp.moveaxis(carry[0], 1, 2).astype(rows.dtype),
    _joined(d_content).astype(factors.content.dtype),
    _joined(d_scale),
    _joined(d_lead),
    carry[1],
  )
  return d_factors, None, None


def _inner_products(sums: Sums, cotangents: Sums) -> Float[Array, 'B R']:
  """Returns the sums over tokens of weights times their cotangents."""
  content, total, lead, last = jax.tree.map(jnp.multiply, sums, cotangents)
  inner = jnp.sum(content, axis=2) + total
  if lead is None:
    return inner
  return inner + jnp.sum(lead, axis=1) + jnp.sum(last, axis=1)


def _joined(chunks: Array | None) -> Array | None:
  """Joins chunks along the axis after the batch."""
  if chunks is None:
    return None
  chunks = jnp.moveaxis(chunks, 0, 1)
  return chunks.reshape(len(chunks), -1, *chunks.shape[3:])


_read.defvjp(_forward, _backward)
