"""Queries that read normalised inputs directly, without keys and values.

Algorithms that do so differ in how they hold the inputs: they are subclasses
of `AbsorbingInputs`.

With x the normalised inputs before scale g and offset o, a logit is
q . ((g x + o) W_k + b_k) / sqrt(F): the product of x with the row
g (W_k q) / sqrt(F), plus terms that all inputs share and softmax ignores. The
average of values under weights a is (g u + t o) W_v + t b_v, where
u = sum_m a_m x_m and t = sum_m a_m. (t is 1 but for masks and dropout.)

Normalised inputs sum to zero over channels, so rows may be centred; then a
row times x is the row times the raw input over its standard deviation.
"""

import abc
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from perceiver_jax.nn.cross_attention.base import (
  Dropout,
  InputParameters,
  masked_softmax,
)


class Average(NamedTuple):
  """What absorbed queries read of some inputs; all float32.

  Attributes:
    inputs: normalised inputs, averaged by the weights of each row.
    total: sums of these weights: 1 but for masks and dropout.
    log_sum: logarithm of the sum of exp(logit) over the inputs used, by which
      averages of other inputs can be added; `MASKED_LOGIT` if none is used.
  """

  inputs: Float[Array, 'B R C']
  total: Float[Array, 'B R']
  log_sum: Float[Array, 'B R']


class AbsorbingInputs(abc.ABC):
  """Prepared inputs that queries read without keys and values."""

  @property
  @abc.abstractmethod
  def num_inputs(self) -> int:
    """The number M of inputs."""

  @property
  @abc.abstractmethod
  def num_channels(self) -> int:
    """The number C of channels of an input."""

  @abc.abstractmethod
  def logits(self, rows: Float[Array, 'B R C']) -> Float[Array, 'B R M']:
    """Returns the products of rows of `absorb` and inputs; float32."""

  @abc.abstractmethod
  def average(
    self,
    rows: Float[Array, 'B R C'],
    mask: Bool[Array, 'B M'] | None,
    dropout: Dropout | None,
  ) -> Average:
    """Returns averages of the inputs, by the softmax of `logits`.

    Without dropout, no gradient flows through the sums of the weights: these
    are constants, and the gradient would be rounding noise.
    """

  def project(self, params: InputParameters) -> 'AbsorbingInputs':
    del params
    return self

  def weights(
    self,
    query: Float[Array, 'B N H F'],
    params: InputParameters,
    mask: Bool[Array, 'B M'] | None,
  ) -> Float[Array, 'B H N M']:
    batch, num_queries, num_heads, _ = query.shape
    weights = masked_softmax(self.logits(absorb(query, params)), mask)
    return weights.reshape(batch, num_heads, num_queries, -1)

  def read(
    self,
    query: Float[Array, 'B N H F'],
    params: InputParameters,
    mask: Bool[Array, 'B M'] | None,
    dropout: Dropout | None,
  ) -> Float[Array, 'B N HG']:
    average = self.average(absorb(query, params), mask, dropout)
    return release(average.inputs, average.total, params, query)


def absorb(
  query: Float[Array, 'B N H F'], params: InputParameters
) -> Float[Array, 'B R C']:
  """Returns what normalised inputs are multiplied with to give logits.

  Args:
    query: projected queries, by heads.
    params: the projections of the inputs.

  Returns:
    R = H N rows, queries within heads, each with a mean of zero; float32.
  """
  batch, num_queries, num_heads, head_size = query.shape
  key_w = params.key_w.reshape(-1, num_heads, head_size)
  rows = jnp.einsum(
    'bnhf,chf->bhnc', query, key_w, preferred_element_type=jnp.float32
  )
  rows = rows * (params.norm_scale.astype(jnp.float32) * head_size**-0.5)
  rows = rows - jnp.mean(rows, axis=-1, keepdims=True)
  return rows.reshape(batch, num_heads * num_queries, -1)


def release(
  average: Float[Array, 'B R C'],
  total: Float[Array, 'B R'],
  params: InputParameters,
  query: Float[Array, 'B N H F'],
) -> Float[Array, 'B N HG']:
  """Returns averages of values, given averages of normalised inputs.

  Args:
    average: normalised inputs, averaged by the weights of each row; float32.
    total: sums of these weights.
    params: the projections of the inputs.
    query: tells numbers and dtype.
  """
  batch, num_queries, num_heads, _ = query.shape
  total = total[..., None]
  average = average * params.norm_scale + total * params.norm_offset
  average = average.reshape(batch, num_heads, num_queries, -1)
  value_w = params.value_w.reshape(average.shape[-1], num_heads, -1)
  outputs = jnp.einsum(
    'bhnc,chg->bnhg',
    average.astype(query.dtype),
    value_w,
    preferred_element_type=jnp.float32,
  )
  bias = params.value_b.reshape(num_heads, -1)
  total = total.reshape(batch, num_heads, num_queries, 1).transpose(0, 2, 1, 3)
  outputs = (outputs + total * bias).astype(query.dtype)
  return outputs.reshape(batch, num_queries, -1)
