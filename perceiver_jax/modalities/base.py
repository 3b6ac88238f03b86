"""What every modality offers to the model, on its input and output side."""

from typing import Any, Protocol

from jaxtyping import Array, Float

from perceiver_jax.arrays import AnyArray
from perceiver_jax.config import Config
from perceiver_jax.nn.tokens import Tokens


class InputModality(Protocol):
  """A Haiku module that turns raw inputs into tokens."""

  def __call__(self, inputs: Any, *, is_training: bool) -> Tokens: ...


class OutputModality(Protocol):
  """A Haiku module that makes output queries, and outputs of what they read."""

  def queries(
    self, raw_queries: AnyArray | None, batch_size: int, num_channels: int
  ) -> Float[Array, 'B O E']:
    """Embeds raw queries; None stands for the modality's own."""
    ...

  def __call__(self, decoded: Float[Array, 'B O E']) -> Any: ...


class InputConfig(Config):
  """Describes an input modality.

  Attributes:
    has_state: whether the module keeps running statistics (batch norm).
  """

  @property
  def num_channels(self) -> int:
    """The number C of channels of a dense token."""
    raise TypeError(f'{type(self).__name__} must define num_channels.')

  @property
  def has_state(self) -> bool:
    return False

  def example(self) -> Any:
    """Returns shapes of small, valid inputs, a batch of one.

    They give every parameter its shape where no real inputs are at hand.
    """
    raise TypeError(f'{type(self).__name__} must define example.')

  def make(self, name: str) -> InputModality:
    """Makes the Haiku module; call it inside a transform."""
    raise TypeError(f'{type(self).__name__} must define make.')


class OutputConfig(Config):
  """Describes an output modality."""

  def make(self, name: str) -> OutputModality:
    """Makes the Haiku module; call it inside a transform."""
    raise TypeError(f'{type(self).__name__} must define make.')
