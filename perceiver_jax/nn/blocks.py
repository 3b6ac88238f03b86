"""The two blocks of every Perceiver: cross-attend and self-attend.

Each is a pre-norm attention and a pre-norm MLP, with residuals: the "GPT-2
architecture" of arXiv 2103.03206, section 3.2. A config is the block: calling
it inside a Haiku transform creates the parameters in the current scope.
"""

import enum
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from perceiver_jax.arrays import AnyArray, InputMask
from perceiver_jax.config import Config
from perceiver_jax.nn.attention import SelfAttention, dropout, linear
from perceiver_jax.nn.cross_attention import (
  AbsorbedKeys,
  Algorithm,
  CrossAttention,
  InputNorm,
  PreparedInputs,
  QueryAlgorithm,
  choose,
  prepare,
  prepare_queries,
)
from perceiver_jax.nn.cross_attention.base import Dropout
from perceiver_jax.nn.cross_attention.plain import Plain
from perceiver_jax.nn.repeat import Remat
from perceiver_jax.nn.tokens import AnyTokens, Tokens


class Gelu(enum.Enum):
  """How GELU is computed: the usual approximation, or with erf."""

  TANH = enum.auto()
  EXACT = enum.auto()


class AttendConfig(Config):
  """What cross-attends and self-attends have in common.

  Attributes:
    num_heads: attention heads; must divide `qk_channels` and `v_channels`.
    qk_channels: channels of queries and keys over all heads. None: as many as
      the attended array has.
    v_channels: channels of values over all heads. None: as `qk_channels`.
    widening_factor: hidden channels of the MLP, over its input channels.
    dropout_prob: dropout after the attention and after the MLP.
    attention_dropout_prob: dropout of attention weights.
    gelu: the published models were trained with the tanh approximation.
    remat: what of the block the backward pass computes again.
  """

  num_heads: int = 1
  qk_channels: int | None = None
  v_channels: int | None = None
  widening_factor: int = 1
  dropout_prob: float = 0.0
  attention_dropout_prob: float = 0.0
  gelu: Gelu = Gelu.TANH
  remat: Remat = Remat.NONE

  def validate(self) -> None:
    super().validate()
    self._validate_at_least(1, 'num_heads', 'widening_factor')
    for name in ('dropout_prob', 'attention_dropout_prob'):
      if not 0.0 <= getattr(self, name) < 1.0:
        raise ValueError(f'{name} must be in [0, 1), got {getattr(self, name)}')

  def validate_heads(self, attended_channels: int) -> None:
    """Checks that the heads divide the channels.

    Args:
      attended_channels: channels of the array that keys and values come from.

    Raises:
      ValueError: they do not.
    """
    for kind, channels in zip(
      ('qk', 'v'), self._channels(attended_channels), strict=True
    ):
      if channels < 1 or channels % self.num_heads:
        raise ValueError(
          f'{kind}_channels must be a positive multiple of num_heads '
          f'{self.num_heads}, got {channels}.'
        )

  def _channels(self, attended_channels: int) -> tuple[int, int]:
    qk_channels = (
      attended_channels if self.qk_channels is None else self.qk_channels
    )
    v_channels = qk_channels if self.v_channels is None else self.v_channels
    return qk_channels, v_channels

  def _attention_options(self, attended_channels: int) -> dict[str, Any]:
    qk_channels, v_channels = self._channels(attended_channels)
    return {
      'num_heads': self.num_heads,
      'qk_channels': qk_channels,
      'v_channels': v_channels,
      'dropout_prob': self.attention_dropout_prob,
      'name': 'attention',
    }

  def _mlp(self, array: Array, *, is_training: bool) -> Array:
    """Returns `array` plus an MLP of it."""
    channels = array.shape[-1]
    hidden = layer_norm(array, name='mlp_norm')
    hidden = linear(self.widening_factor * channels, name='mlp_hidden')(hidden)
    hidden = jax.nn.gelu(hidden, approximate=self.gelu is Gelu.TANH)
    update = linear(channels, name='mlp_output')(hidden)
    return array + dropout(update, self.dropout_prob, is_training=is_training)


class CrossAttendConfig(AttendConfig):
  """A cross-attend: queries read an array of inputs.

  Attributes:
    use_query_residual: whether the queries are added to what they read.
    algorithm: how the attention is computed; all give the same numbers.
  """

  use_query_residual: bool = True
  algorithm: Algorithm = Algorithm.AUTO

  def prepare(
    self, inputs: AnyTokens | Float[Array, 'B M C'], *, num_queries: int
  ) -> PreparedInputs:
    """Computes what depends on the inputs alone, for one or more cross-attends.

    Args:
      inputs: what will be read.
      num_queries: how many queries will read it.

    Raises:
      ValueError: the `algorithm` does not apply to the inputs.
    """
    channels = (
      inputs.num_channels if isinstance(inputs, AnyTokens) else inputs.shape[-1]
    )
    qk_channels, v_channels = self._channels(channels)
    return prepare(
      inputs,
      self.algorithm,
      num_queries=num_queries,
      num_heads=self.num_heads,
      qk_channels=qk_channels,
      v_channels=v_channels,
    )

  def choose(
    self,
    algorithm: QueryAlgorithm,
    queries: Tokens,
    inputs: Float[Array, 'B M C'],
    chunk_size: int | None,
  ) -> QueryAlgorithm:
    """Chooses how these queries read these inputs, if that is left open."""
    batch_size, num_inputs, num_channels = inputs.shape
    return choose(
      algorithm,
      queries,
      batch_size=batch_size,
      num_inputs=num_inputs,
      num_heads=self.num_heads,
      qk_channels=self._channels(num_channels)[0],
      can_absorb=self.algorithm is Algorithm.AUTO,
      chunk_size=chunk_size,
    )

  def project(
    self, inputs: PreparedInputs, *, is_training: bool
  ) -> PreparedInputs:
    """Computes what cross-attends of the same weights share; see `prepare`."""
    del is_training
    norm = InputNorm('input_norm')(inputs.num_channels)
    return self._attention(inputs).project(inputs, norm)

  def __call__(
    self,
    queries: Float[Array, 'B N D'],
    inputs: PreparedInputs,
    input_mask: InputMask | None = None,
    query_mask: Bool[AnyArray, 'B N'] | None = None,
    *,
    is_training: bool,
  ) -> Float[Array, 'B N D']:
    read = self._attention(inputs)(
      layer_norm(queries, name='query_norm'),
      inputs,
      InputNorm('input_norm')(inputs.num_channels),
      input_mask,
      query_mask,
      is_training=is_training,
    )
    read = dropout(read, self.dropout_prob, is_training=is_training)
    if self.use_query_residual:
      read = queries + read
    return self._mlp(read, is_training=is_training)

  def absorb_queries(
    self,
    inputs: Float[Array, 'B M C'],
    num_query_channels: int,
    *,
    is_training: bool,
  ) -> AbsorbedKeys:
    """Computes what `read_absorbed` reads.

    Args:
      inputs: what will be read.
      num_query_channels: channels of a query.
      is_training: has no effect.
    """
    del is_training
    plain = Plain(inputs)
    norm = InputNorm('input_norm')(plain.num_channels)
    query_norm = InputNorm('query_norm')(num_query_channels)
    attention = self._attention(plain)
    return attention.absorb_queries(plain, norm, query_norm)

  def read_absorbed(
    self,
    queries: Tokens,
    keys: AbsorbedKeys,
    query_mask: Bool[AnyArray, 'B N'] | None = None,
    *,
    is_training: bool,
  ) -> Float[Array, 'B N D']:
    """Returns what the block makes of queries that stay factored.

    Args:
      queries: as the block's call has them, dense.
      keys: what they read.
      query_mask: which queries read.
      is_training: whether dropout applies.
    """
    attention_dropout = None
    if is_training and self.attention_dropout_prob:
      rng = hk.next_rng_key()
      attention_dropout = Dropout(rng, self.attention_dropout_prob)
    read = keys.read(prepare_queries(queries), query_mask, attention_dropout)
    read = dropout(read, self.dropout_prob, is_training=is_training)
    if self.use_query_residual:
      read = queries.dense() + read
    return self._mlp(read, is_training=is_training)

  def _attention(self, inputs: PreparedInputs) -> CrossAttention:
    return CrossAttention(**self._attention_options(inputs.num_channels))


class SelfAttendConfig(AttendConfig):
  """A self-attend: latents read each other."""

  def __call__(
    self, latents: Float[Array, 'B N D'], *, is_training: bool
  ) -> Float[Array, 'B N D']:
    attention = SelfAttention(**self._attention_options(latents.shape[-1]))
    normed = layer_norm(latents, name='norm')
    read = attention(normed, is_training=is_training)
    read = dropout(read, self.dropout_prob, is_training=is_training)
    return self._mlp(latents + read, is_training=is_training)


def layer_norm(array: Array, *, name: str) -> Array:
  """Normalises over channels, with statistics in float32.

  Epsilon is 1e-5, as in the published models; scale and offset are learned.
  """
  norm = hk.LayerNorm(-1, create_scale=True, create_offset=True, name=name)
  return norm(array.astype(jnp.float32)).astype(array.dtype)
