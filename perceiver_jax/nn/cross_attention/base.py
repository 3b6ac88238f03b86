"""What every algorithm of cross-attention takes and offers.

An algorithm is a class. Its instance holds all that can be computed from the
inputs alone, so that cross-attends that read the same inputs share it; its
`read` computes softmax(q k^T / sqrt(F)) v, where keys k and values v are linear
functions of layer-normalised inputs. All algorithms compute the same numbers.
"""

import dataclasses
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from perceiver_jax.arrays import AnyArray, Rng, register_pytree

# Far below any logit, yet finite: a row without a single usable key must not
# turn into NaN.
MASKED_LOGIT = -1e30

EPSILON = 1e-5
"""Added to the variance by layer norm, as in the published models."""


class NormParameters(NamedTuple):
  """The parameters of the inputs' layer norm."""

  scale: Float[AnyArray, ' C']
  offset: Float[AnyArray, ' C']


class InputParameters(NamedTuple):
  """The parameters through which inputs become keys and values.

  Attributes:
    norm_scale: of the inputs' layer norm.
    norm_offset: of the inputs' layer norm.
    key_w: weights of the keys, heads concatenated.
    key_b: bias of the keys; the softmax does not depend on it.
    value_w: weights of the values, heads concatenated.
    value_b: bias of the values.
  """

  norm_scale: Float[AnyArray, ' C']
  norm_offset: Float[AnyArray, ' C']
  key_w: Float[AnyArray, 'C HF']
  key_b: Float[AnyArray, ' HF']
  value_w: Float[AnyArray, 'C HG']
  value_b: Float[AnyArray, ' HG']


@register_pytree
@dataclasses.dataclass(frozen=True)
class Dropout:
  """Dropout of attention weights, keyed by the position of the token.

  Attributes:
    rng: the key.
    prob: probability that a weight is zeroed.
    start: position of the first token of those at hand, among all M.
  """

  rng: Rng
  prob: float = dataclasses.field(metadata={'static': True})
  start: int = dataclasses.field(default=0, metadata={'static': True})

  def after(self, count: int) -> 'Dropout':
    """Returns the same dropout, as the tokens after so many number it."""
    return dataclasses.replace(self, start=self.start + count)

  def factors(
    self, tokens: Int[Array, ' m'], shape: tuple[int, int]
  ) -> Float[Array, 'B R m']:
    """Returns what to multiply weights by: zero or 1 / (1 - prob).

    Args:
      tokens: positions, counted from `start`; a token gets the same factors
        whatever other tokens it is asked for with.
      shape: numbers B of examples and R of rows, heads times queries.
    """
    keep_prob = 1.0 - self.prob

    def of_token(token):
      rng = jax.random.fold_in(self.rng, token)
      return jax.random.bernoulli(rng, keep_prob, shape)

    kept = jax.vmap(of_token, out_axes=2)(self.start + tokens)
    return kept.astype(jnp.float32) / keep_prob


@runtime_checkable
class PreparedInputs(Protocol):
  """Inputs as one algorithm wants them: all that no parameter enters."""

  @property
  def num_inputs(self) -> int:
    """The number M of inputs."""
    ...

  @property
  def num_channels(self) -> int:
    """The number C of channels of an input."""
    ...

  def project(self, params: InputParameters) -> 'PreparedInputs':
    """Computes what inputs and parameters determine, for repeated reading."""
    ...

  def weights(
    self,
    query: Float[Array, 'B N H F'],
    params: InputParameters,
    mask: Bool[Array, 'B M'] | None,
  ) -> Float[Array, 'B H N M']:
    """Returns what `read` averages values with, all of it at once; float32."""
    ...

  def read(
    self,
    query: Float[Array, 'B N H F'],
    params: InputParameters,
    mask: Bool[Array, 'B M'] | None,
    dropout: Dropout | None,
  ) -> Float[Array, 'B N HG']:
    """Returns averages of values, heads concatenated, in the query's dtype.

    Args:
      query: projected queries, by heads.
      params: the projections of the inputs.
      mask: which inputs to use; an example without any gets zeros.
      dropout: of attention weights; None: none.
    """
    ...


def masked_softmax(
  logits: Float[Array, 'B *rows M'], mask: Bool[Array, 'B M'] | None
) -> Float[Array, 'B *rows M']:
  """Returns weights of inputs: 0 where masked, in every row of that example.

  A row sums to 1, or to 0 if all of its inputs are masked.
  """
  if mask is None:
    return jax.nn.softmax(logits, axis=-1)
  rows = (1,) * (logits.ndim - 2)
  mask = mask.reshape(len(mask), *rows, -1)
  weights = jax.nn.softmax(jnp.where(mask, logits, MASKED_LOGIT), axis=-1)
  return jnp.where(mask, weights, 0.0)


def normalise(
  inputs: Float[Array, '*batch C'],
) -> Float[Array, '*batch C']:
  """Returns inputs with mean 0 and variance 1 over channels.

  Statistics are in float32, the result in the inputs' dtype.
  """
  array = inputs.astype(jnp.float32)
  array = array - jnp.mean(array, axis=-1, keepdims=True)
  variance = jnp.mean(jnp.square(array), axis=-1, keepdims=True)
  return (array * jax.lax.rsqrt(variance + EPSILON)).astype(inputs.dtype)
