"""Sets of entities, each a vector of properties, as inputs and outputs."""

import haiku as hk
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from perceiver_jax.arrays import AnyArray, ExampleRngs
from perceiver_jax.modalities.base import (
  InputConfig,
  InputModality,
  check_set,
)
from perceiver_jax.modalities.queried_by_inputs import (
  QueriedByInputs,
  QueriedByInputsModality,
)
from perceiver_jax.nn.attention import Linear
from perceiver_jax.nn.tokens import Tokens


class EntitiesInput(InputConfig):
  """Entities [B, M, K], floating point, as inputs: a token each.

  They are an unordered set, so that tokens have no positions. Sets of different
  sizes are padded with any finite numbers and told apart by `input_mask`.

  Attributes:
    num_features: number K of properties of an entity.
    embedding_channels: of a linear projection of them; None: not projected.
  """

  num_features: int = 256
  embedding_channels: int | None = None

  @property
  def channel_sources(self) -> dict[str, int]:
    if self.embedding_channels is None:
      return {'properties': self.num_features}
    return {'projected properties': self.embedding_channels}

  def example(self) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, 1, self.num_features), jnp.float32)

  def validate(self) -> None:
    super().validate()
    self._validate_at_least(1, 'num_features', 'embedding_channels')

  def make(self, name: str) -> 'EntitiesModality':
    return EntitiesModality(self, name=name)


class EntitiesModality(hk.Module):
  """Turns entities into tokens; see `EntitiesInput`."""

  def __init__(self, config: EntitiesInput, name: str | None = None):
    super().__init__(name)
    self._config = config

  def __call__(
    self,
    inputs: Float[AnyArray, 'B M K'],
    *,
    is_training: bool,
    rngs: ExampleRngs | None = None,
  ) -> Tokens:
    del is_training, rngs
    config = self._config
    entities = check_set('entities', inputs, config.num_features)
    if config.embedding_channels is not None:
      embed = Linear(config.embedding_channels, name='embedding')
      entities = embed(entities)
    return Tokens(entities)


class EntitiesOutput(QueriedByInputs):
  """A vector for each entity [B, M, E]; its query is the entity's own token.

  Attributes:
    num_channels: number E of channels of a vector.
  """

  num_channels: int = 128

  def validate(self) -> None:
    super().validate()
    self._validate_at_least(1, 'num_channels')

  def make(self, name: str, inputs: InputModality) -> 'EntitiesOutputModality':
    del inputs
    return EntitiesOutputModality(self, name=name)


class EntitiesOutputModality(QueriedByInputsModality):
  """Makes vectors of what the entities read; see `EntitiesOutput`."""

  @hk.name_like('__call__')
  def head(self, decoded: Float[Array, 'B O E']) -> Float[Array, 'B O F']:
    return Linear(self._config.num_channels, name='vectors')(decoded)
