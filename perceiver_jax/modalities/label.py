"""Class labels as outputs: one vector of logits."""

import haiku as hk
import jax.numpy as jnp
from jaxtyping import Array, Float

from perceiver_jax.arrays import AnyArray, Logits
from perceiver_jax.modalities.base import InputModality, OutputConfig
from perceiver_jax.nn.positions import learned_positions


class LabelOutput(OutputConfig):
  """Logits over classes, read by a single learned query.

  Attributes:
    num_classes: number V of classes.
    use_zero_init: start the logits layer at zero, so that the first
      predictions are uniform; else at a truncated normal of variance 1/fan-in.
    query_init_scale: standard deviation of the truncated normal that the
      query starts from.
  """

  num_classes: int = 1000
  use_zero_init: bool = False
  query_init_scale: float = 0.02

  @property
  def has_single_query(self) -> bool:
    return True

  def validate(self) -> None:
    super().validate()
    if self.num_classes < 1:
      raise ValueError(
        f'num_classes must be at least 1, got {self.num_classes}.'
      )

  def make(self, name: str, inputs: InputModality) -> 'LabelModality':
    del inputs
    return LabelModality(self, name=name)


class LabelModality(hk.Module):
  """Makes the query for a label, and logits of what it read."""

  def __init__(self, config: LabelOutput, name: str | None = None):
    super().__init__(name)
    self._config = config

  @hk.transparent
  def queries(
    self, raw_queries: AnyArray | None, batch_size: int, num_channels: int
  ) -> Float[Array, 'B O E']:
    if raw_queries is not None:
      raise ValueError(
        'queries must be None for a label, which has its own query, got an '
        f'array of shape {list(raw_queries.shape)}.'
      )
    query = learned_positions(
      1, num_channels, self._config.query_init_scale, 'query'
    )
    return jnp.broadcast_to(query, (batch_size, 1, num_channels))

  def __call__(
    self, decoded: Float[Array, 'B 1 E'], raw_queries: None = None
  ) -> Logits:
    del raw_queries
    config = self._config
    init = hk.initializers.Constant(0.0) if config.use_zero_init else None
    return hk.Linear(config.num_classes, w_init=init, name='logits')(
      decoded[:, 0]
    )
