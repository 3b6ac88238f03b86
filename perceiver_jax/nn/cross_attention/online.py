"""An online softmax over chunks of tokens, with a written backward pass.

Row r gives token m the logit

  s_m (row_r . x_m + lead_r[m // X] + last_r[m % X])

with an optional factor s_m of the token and, for tokens on a grid of L times X,
optional terms of its lead and last coordinate. What is read are the sums over
tokens of weights times factors, times x_m (`content`), by lead and by last
coordinate (`lead`, `last`), and of the weights alone (`total`); besides, the
logarithm of the softmax's denominator, by which what was read of other tokens
can be added. Only a chunk of weights is in memory at a time; the backward pass
computes them again.
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
    content: x, of each token.
    scale: the factor of each token, float32; None: 1.
    lead: the terms of the lead coordinate, float32; None: 0.
    last: the terms of the last coordinate; given if and only if `lead` is.
  """

  rows: Float[Array, 'B R C']
  content: Float[Array, 'B M C']
  scale: Float[Array, 'B M'] | None = None
  lead: Float[Array, 'B R L'] | None = None
  last: Float[Array, 'B R X'] | None = None

  @property
  def num_last(self) -> int:
    """The number X of tokens with the same lead coordinate."""
    return 1 if self.last is None else self.last.shape[-1]


class Sums(NamedTuple):
  """What is read; see the module. All float32."""

  content: Float[Array, 'B R C']
  total: Float[Array, 'B R']
  lead: Float[Array, 'B R L'] | None = None
  last: Float[Array, 'B R X'] | None = None


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
    factors: what logits are made of.
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
  width = factors.num_last
  num_lead = num_tokens // width
  num_chunks = -(-num_lead // max(1, chunk_size // width))
  lead_size = -(-num_lead // num_chunks)
  padding = num_chunks * lead_size - num_lead
  if padding:
    if mask is None:
      mask = jnp.ones(factors.content.shape[:2], bool)
    factors, mask = _pad(factors, mask, padding)
  sums, log_sum = _read(lead_size * width, factors, mask, dropout)
  if padding and sums.lead is not None:
    sums = sums._replace(lead=sums.lead[:, :, :num_lead])
  return sums, log_sum


def logits(factors: Factors) -> Float[Array, 'B R M']:
  """Returns the logits that `read` never holds all at once; float32."""
  num_tokens = factors.content.shape[1]
  chunk = _chunk(jnp.int32(0), num_tokens, factors, None, None)
  return chunk.scaled(chunk.products(factors.rows, factors.lead, factors.last))


def _pad(factors: Factors, mask: Array, num_lead: int) -> tuple[Factors, Array]:
  """Appends tokens that the mask excludes."""

  def pad(array, axis, count):
    if array is None:
      return None
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, count)
    return jnp.pad(array, widths)

  num_tokens = num_lead * factors.num_last
  return factors._replace(
    content=pad(factors.content, 1, num_tokens),
    scale=pad(factors.scale, 1, num_tokens),
    lead=pad(factors.lead, 2, num_lead),
  ), pad(mask, 1, num_tokens)


class _Chunk(NamedTuple):
  """The part of the factors, mask and dropout that belongs to a chunk."""

  factors: Factors
  mask: Bool[Array, 'B m'] | None
  dropped: Float[Array, 'B R m'] | None

  def products(self, rows: Array, lead: Any, last: Any) -> Array:
    """Returns row . x_m + lead + last for each row and token."""
    products = _matmul('brc,bmc->brm', rows, self.factors.content)
    if lead is None:
      return products
    grid = products.reshape(*lead.shape, last.shape[-1])
    grid = grid + lead[..., None] + last[:, :, None]
    return grid.reshape(products.shape)

  def logits(self, products: Array) -> Array:
    logits = self.scaled(products)
    if self.mask is None:
      return logits
    return jnp.where(self.mask[:, None], logits, MASKED_LOGIT)

  def weights(self, products: Array, log_sum: Array) -> Array:
    """Returns the softmax; where all tokens are masked, zeros."""
    log_sum = jnp.where(log_sum == MASKED_LOGIT, 0.0, log_sum)
    return jnp.exp(self.logits(products) - log_sum[..., None])

  def scaled(self, array: Array) -> Array:
    scale = self.factors.scale
    return array if scale is None else array * scale[:, None]

  def with_dropout(self, weights: Array) -> Array:
    return weights if self.dropped is None else weights * self.dropped

  def sums(self, weights: Array) -> tuple[Array, Array | None, Array | None]:
    """Returns sums times content, by lead and by last coordinate."""
    content = _matmul('brm,bmc->brc', weights, self.factors.content)
    if self.factors.lead is None:
      return content, None, None
    grid = weights.reshape(*self.factors.lead.shape, -1)
    return content, jnp.sum(grid, axis=3), jnp.sum(grid, axis=2)


def _matmul(equation: str, first: Array, second: Array) -> Array:
  return jnp.einsum(
    equation,
    first.astype(second.dtype),
    second,
    preferred_element_type=jnp.float32,
  )


def _chunk(
  index: Int[Array, ''],
  size: int,
  factors: Factors,
  mask: Array | None,
  dropout: Dropout | None,
) -> _Chunk:
  def part(array, axis, size):
    if array is None:
      return None
    return jax.lax.dynamic_slice_in_dim(array, index * size, size, axis)

  dropped = None
  if dropout is not None:
    tokens = index * size + jnp.arange(size)
    dropped = dropout.factors(tokens, factors.rows.shape[:2])
  factors = factors._replace(
    content=part(factors.content, 1, size),
    scale=part(factors.scale, 1, size),
    lead=part(factors.lead, 2, size // factors.num_last),
  )
  return _Chunk(factors, part(mask, 1, size), dropped)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _read(size, factors, mask, dropout) -> tuple[Sums, Array]:
  return _forward(size, factors, mask, dropout)[0]


def _forward(size, factors, mask, dropout) -> tuple[Any, Any]:
  """Returns what is read and what the backward pass needs."""
  rows, last = factors.rows, factors.last
  batch, num_rows, num_channels = rows.shape
  num_chunks = factors.content.shape[1] // size

  def step(carry, index):
    maximum, denominator, total, content, by_last = carry
    chunk = _chunk(index, size, factors, mask, dropout)
    logits = chunk.logits(chunk.products(rows, chunk.factors.lead, last))
    new_maximum = jnp.maximum(maximum, jnp.max(logits, axis=-1))
    weights = jnp.exp(logits - new_maximum[..., None])
    decay = jnp.exp(maximum - new_maximum)
    denominator = denominator * decay + jnp.sum(weights, axis=-1)
    if dropout is not None:
      weights = chunk.with_dropout(weights)
      total = total * decay + jnp.sum(weights, axis=-1)
    add = chunk.sums(chunk.scaled(weights))
    content = content * decay[..., None] + add[0]
    if by_last is not None:
      by_last = by_last * decay[..., None] + add[2]
    carry = (new_maximum, denominator, total, content, by_last)
    return carry, (new_maximum, add[1])

  zeros = jnp.zeros((batch, num_rows), jnp.float32)
  start = (
    zeros + MASKED_LOGIT,
    zeros,
    None if dropout is None else zeros,
    jnp.zeros((batch, num_rows, num_channels), jnp.float32),
    None if last is None else jnp.zeros_like(last),
  )
  end, (maxima, by_lead) = jax.lax.scan(step, start, jnp.arange(num_chunks))
  maximum, denominator, total, content, by_last = end
  # A weight that a mask excludes is exactly zero once a used token was seen;
  # without any, the sums are of excluded tokens and are dropped here.
  usable = True if mask is None else jnp.any(mask, axis=-1, keepdims=True)
  factor = jnp.where(usable, 1.0 / denominator, 0.0)
  log_sum = jnp.where(usable, maximum + jnp.log(denominator), MASKED_LOGIT)
  if by_lead is not None:
    late = jnp.exp(maxima - maximum) * factor
    by_lead = _joined(by_lead * late[..., None], axis=2)
    by_last = by_last * factor[..., None]
  total = factor * (denominator if total is None else total)
  sums = Sums(content * factor[..., None], total, by_lead, by_last)
  return (sums, log_sum), (factors, mask, dropout, sums, log_sum)


def _backward(size, residuals, cotangents) -> tuple[Any, None, None]:
  factors, mask, dropout, sums, log_sum = residuals
  cotangents, d_log_sum = cotangents
  if dropout is None:
    # The total is a constant: its gradient would be rounding noise.
    cotangents = cotangents._replace(total=jnp.zeros_like(cotangents.total))
  rows, last = factors.rows, factors.last
  chunks = jnp.arange(factors.content.shape[1] // size)
  inner = _inner_products(sums, cotangents) - d_log_sum
  num_lead = size // factors.num_last

  def step(carry, index):
    chunk = _chunk(index, size, factors, mask, dropout)
    products = chunk.products(rows, chunk.factors.lead, last)
    weights = chunk.weights(products, log_sum)
    d_lead = cotangents.lead
    if d_lead is not None:
      d_lead = jax.lax.dynamic_slice_in_dim(
        d_lead, index * num_lead, num_lead, 2
      )
    d_scaled = chunk.products(cotangents.content, d_lead, cotangents.last)
    d_weights = chunk.scaled(d_scaled) + cotangents.total[..., None]
    d_logits = weights * (chunk.with_dropout(d_weights) - inner[..., None])
    weights = chunk.with_dropout(weights)
    d_products = chunk.scaled(d_logits)
    d_rows, d_lead, d_last = chunk.sums(d_products)
    d_content = _matmul('brm,brc->bmc', d_products, rows) + _matmul(
      'brm,brc->bmc',
      chunk.scaled(weights),
      cotangents.content.astype(rows.dtype),
    )
    d_scale = None
    if factors.scale is not None:
      d_scale = jnp.sum(d_logits * products + weights * d_scaled, axis=1)
    add = (d_rows, d_last)
    return jax.tree.map(jnp.add, carry, add), (d_content, d_scale, d_lead)

  start = (
    jnp.zeros(rows.shape, jnp.float32),
    None if last is None else jnp.zeros_like(last),
  )
  carry, (d_content, d_scale, d_lead) = jax.lax.scan(step, start, chunks)
  d_factors = Factors(
    carry[0].astype(rows.dtype),
    _joined(d_content, axis=1).astype(factors.content.dtype),
    _joined(d_scale, axis=1),
    _joined(d_lead, axis=2),
    carry[1],
  )
  return d_factors, None, None


def _inner_products(sums: Sums, cotangents: Sums) -> Float[Array, 'B R']:
  """Returns the sums over tokens of weights times their cotangents."""
  return sum(
    jnp.sum(value * cotangent, axis=tuple(range(2, value.ndim)))
    for value, cotangent in zip(sums, cotangents, strict=True)
    if value is not None
  )


def _joined(chunks: Array | None, axis: int) -> Array | None:
  """Joins chunks, stacked along a first axis, along another one."""
  if chunks is None:
    return None
  chunks = jnp.moveaxis(chunks, 0, axis)
  shape = chunks.shape
  return chunks.reshape(*shape[:axis], -1, *shape[axis + 2 :])


_read.defvjp(_forward, _backward)
