"""Class labels: as outputs, one vector of logits; as inputs, one token."""

from collections.abc import Sequence

import haiku as hk
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from perceiver_jax.arrays import AnyArray, ExampleRngs, Logits
from perceiver_jax.modalities.base import (
  InputConfig,
  InputModality,
  OneHead,
  OutputConfig,
)
from perceiver_jax.nn.positions import learned_positions
from perceiver_jax.nn.tokens import Tokens


class LabelOutput(OutputConfig):
  """Logits over classes, read by a single learned query.

  Attributes:
    num_classes: number V of classes.
    use_zero_init: start the logits layer at zero, so that the first
      predictions are uniform; else at a truncated normal of variance 1/fan-in.
    query_init_scale: standard deviation of the truncated normal that the
      query starts from.
    head_channels: of a hidden layer with tanh before the logits, as in the
      head of BERT; None: no such layer.
  """

  num_classes: int = 1000
  use_zero_init: bool = False
  query_init_scale: float = 0.02
  head_channels: int | None = None

  @property
  def has_single_query(self) -> bool:
    return True

  def validate(self) -> None:
    super().validate()
    self._validate_at_least(1, 'num_classes', 'head_channels')
    self._validate_at_least(0, 'query_init_scale')

  def make(self, name: str, inputs: InputModality) -> 'LabelModality':
    del inputs
    return LabelModality(self, name=name)


class LabelModality(OneHead):
  """Makes the query for a label, and logits of what it read."""

  def __init__(self, config: LabelOutput, name: str | None = None):
    super().__init__(name)
    self._config = config

  def num_queries(self, raw_queries: None = None) -> int:
    del raw_queries
    return 1

  @hk.transparent
  def queries(
    self, raw_queries: AnyArray | None, batch_size: int, num_channels: int
  ) -> Tokens:
    if raw_queries is not None:
      raise ValueError(
        'queries must be None for a label, which has its own query, got an '
        f'array of shape {list(raw_queries.shape)}.'
      )
    query = learned_positions(
      1, num_channels, self._config.query_init_scale, 'query'
    )
    return Tokens(jnp.broadcast_to(query, (batch_size, 1, num_channels)))

  @hk.name_like('__call__')
  def head(self, decoded: Float[Array, 'B 1 E']) -> Float[Array, 'B 1 V']:
    config = self._config
    init = hk.initializers.Constant(0.0) if config.use_zero_init else None
    features = decoded
    if config.head_channels is not None:
      hidden = hk.Linear(config.head_channels, name='head')(features)
      features = jnp.tanh(hidden)
    logits = hk.Linear(config.num_classes, w_init=init, name='logits')
    # In bfloat16 many of a thousand classes would be rated the same.
    return logits(features.astype(jnp.float32))

  def arrange(
    self, made: Sequence[Float[Array, 'B 1 V']], raw_queries: None = None
  ) -> Logits:
    del raw_queries
    (logits,) = made
    return logits[:, 0]


class LabelInput(InputConfig):
  """One-hot labels [B, V], floating point, as inputs of a single token.

  A label that is not known is masked, or all zeros.

  Attributes:
    num_classes: number V of classes.
  """

  num_classes: int = 1000

  @property
  def channel_sources(self) -> dict[str, int]:
    return {'classes': self.num_classes}

  def example(self) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, self.num_classes), jnp.float32)

  def validate(self) -> None:
    super().validate()
    self._validate_at_least(1, 'num_classes')

  def make(self, name: str) -> 'LabelInputModality':
    return LabelInputModality(self, name=name)


class LabelInputModality(hk.Module):
  """Makes a token of a one-hot label; see `LabelInput`."""

  def __init__(self, config: LabelInput, name: str | None = None):
    super().__init__(name)
    self._config = config

  def __call__(
    self,
    inputs: Float[AnyArray, 'B V'],
    *,
    is_training: bool,
    rngs: ExampleRngs | None = None,
  ) -> Tokens:
    del is_training, rngs
    num_classes = self._config.num_classes
    if inputs.ndim != 2 or inputs.shape[1] != num_classes:
      raise ValueError(
        f'labels must have shape [B, {num_classes}], one-hot, '
        f'got {list(inputs.shape)}.'
      )
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
      raise TypeError(
        f'labels must be floating point, one-hot, got {inputs.dtype}.'
      )
    return Tokens(jnp.asarray(inputs)[:, None])
