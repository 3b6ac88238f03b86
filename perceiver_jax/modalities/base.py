"""What every modality offers to the model, on its input and output side."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import haiku as hk
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from perceiver_jax.arrays import AnyArray, ExampleRngs, InputMask, QueryMask
from perceiver_jax.config import Config
from perceiver_jax.nn.tokens import AnyTokens


@runtime_checkable
class InputModality(Protocol):
  """A Haiku module that turns raw inputs into tokens."""

  def __call__(
    self, inputs: Any, *, is_training: bool, rngs: ExampleRngs | None = None
  ) -> AnyTokens:
    """Returns tokens.

    Args:
      inputs: as the modality defines them.
      is_training: whether they are augmented, and batch statistics are used.
      rngs: what is drawn for an example in training depends on its own key
        alone; None: the module draws them by Haiku.
    """
    ...


Head = Callable[[Float[Array, 'B O E']], Float[Array, 'B O K']]
"""Layers that make something of what queries have read, of each alone."""


@runtime_checkable
class OutputModality(Protocol):
  """A Haiku module that makes output queries, and outputs of what they read."""

  def queries(
    self, raw_queries: Any | None, batch_size: int, num_channels: int
  ) -> AnyTokens:
    """Embeds raw queries, in the scope of the decoder.

    Args:
      raw_queries: which outputs are wanted, as the modality defines them:
        output indices, coordinates, features, the input tokens; all of them
        or a part. None: the modality's own.
      batch_size: number B of examples.
      num_channels: number E of channels of a query.
    """
    ...

  def num_queries(self, raw_queries: Any | None) -> int:
    """Returns the number O of queries that `queries` makes of these."""
    ...

  def heads(self, raw_queries: Any | None) -> tuple[Head, ...]:
    """Returns the layers for each block of the queries, in order.

    They draw no random numbers. With an `AverageDecoder`, the only head is
    applied to the mean latent.
    """
    ...

  def arrange(
    self, made: Sequence[Float[Array, 'B _ _']], raw_queries: Any | None
  ) -> Any:
    """Makes outputs of what the heads have made.

    Args:
      made: by each head, of all queries of its block.
      raw_queries: those of `queries`; they decide the shape of the outputs.

    Returns:
      One array, or a dict of arrays: which of them, the type decides.
    """
    ...


class OneHead(hk.Module):
  """What output modalities have in common whose queries are one block."""

  def heads(self, raw_queries: Any | None) -> tuple[Head]:
    del raw_queries
    return (self.head,)

  def head(self, decoded: Float[Array, 'B O E']) -> Float[Array, 'B O K']:
    raise TypeError(f'{type(self).__name__} must define head.')

  def arrange(
    self, made: Sequence[Float[Array, 'B O K']], raw_queries: Any | None
  ) -> Array:
    del raw_queries
    (outputs,) = made
    return outputs


class InputConfig(Config):
  """Describes an input modality.

  Attributes:
    has_state: whether the module keeps running statistics (batch norm).
  """

  @property
  def channel_sources(self) -> dict[str, int]:
    """Where the channels of a dense token come from, in order."""
    raise TypeError(f'{type(self).__name__} must define channel_sources.')

  @property
  def num_channels(self) -> int:
    """The number C of channels of a dense token."""
    return sum(self.channel_sources.values())

  @property
  def positions_note(self) -> str:
    """How the position features of a token are made; '': it has none."""
    return ''

  @property
  def has_state(self) -> bool:
    return False

  def example(self) -> Any:
    """Returns shapes of small, valid inputs, a batch of one.

    They give every parameter its shape where no real inputs are at hand.
    """
    raise TypeError(f'{type(self).__name__} must define example.')

  def cast(self, inputs: Any, dtype: jnp.dtype) -> Any:
    """Returns inputs in the dtype that the model computes in.

    Modalities that must see their inputs in full precision leave them alone.
    """

    def cast(array):
      is_floating = jnp.issubdtype(array.dtype, jnp.floating)
      return array.astype(dtype) if is_floating else array

    return jax.tree.map(cast, inputs)

  def join_masks(self, input_mask: Any, tokens: AnyTokens) -> InputMask | None:
    """Returns one mask over all tokens, of masks as the modality takes them.

    Args:
      input_mask: what the caller gave; None: all tokens are used.
      tokens: what the module made of the inputs.

    Raises:
      ValueError: the masks do not fit the tokens.
      TypeError: a mask is not boolean.
    """
    _check_single('input_mask', input_mask, self)
    if input_mask is not None:
      shape = (tokens.batch_size, tokens.num_tokens)
      check_mask('input_mask', input_mask, shape)
    return input_mask

  def make(self, name: str) -> InputModality:
    """Makes the Haiku module; call it inside a transform."""
    raise TypeError(f'{type(self).__name__} must define make.')


class OutputConfig(Config):
  """Describes an output modality.

  Attributes:
    is_queried_by_inputs: whether its queries are the input tokens, which
      `encode` then keeps and `apply` hands to `decode`.
    has_single_query: whether it makes its output of one vector an example, so
      that the mean over latents will do.
    num_query_channels: channels of its queries; None: as many as it is asked
      for.
  """

  @property
  def is_queried_by_inputs(self) -> bool:
    return False

  @property
  def has_single_query(self) -> bool:
    return False

  @property
  def num_query_channels(self) -> int | None:
    return None

  def validate_fit(self, inputs: InputConfig, decoded_channels: int) -> None:
    """Checks that these outputs fit the rest of the model.

    Args:
      inputs: the input modality.
      decoded_channels: of what the outputs are made of.

    Raises:
      ValueError: they do not.
    """

  def join_masks(
    self,
    query_mask: Any,
    modality: OutputModality,
    raw_queries: Any | None,
    batch_size: int,
  ) -> QueryMask | None:
    """Returns one mask over all queries, of masks as the modality takes them.

    Args:
      query_mask: what the caller gave; None: all queries read.
      modality: the module that these outputs describe.
      raw_queries: those that the masks are for.
      batch_size: number B of examples.

    Raises:
      ValueError: the masks do not fit the queries.
    """
    del modality, raw_queries, batch_size
    _check_single('query_mask', query_mask, self)
    return query_mask

  def make(self, name: str, inputs: InputModality) -> OutputModality:
    """Makes the Haiku module; call it inside a transform.

    Args:
      name: of the module.
      inputs: the input module, for outputs that share parameters with it.
    """
    raise TypeError(f'{type(self).__name__} must define make.')


def check_mask(subject: str, mask: Any, shape: tuple[int, int]) -> None:
  """Checks the shape of a mask, and that it is boolean.

  A mask to add to logits, say, would be taken for its inverse.

  Args:
    subject: what the mask is called.
    mask: an array.
    shape: that it must have: a mark for each element of each example.

  Raises:
    ValueError: it has another shape.
    TypeError: it is not boolean.
  """
  if mask.shape != shape:
    raise ValueError(
      f'{subject} must have shape {list(shape)}, got {list(mask.shape)}.'
    )
  if mask.dtype != bool:
    raise TypeError(f'{subject} must be boolean, got {mask.dtype}.')


def check_set(
  subject: str, inputs: Num[AnyArray, '...'], num_channels: int
) -> Array:
  """Checks and returns a set of vectors for each example.

  Args:
    subject: what the vectors are called.
    inputs: should be [B, M, num_channels], floating point, with M at least 1.
    num_channels: of a vector.

  Raises:
    ValueError: they have another shape.
    TypeError: they are not floating point.
  """
  shape = inputs.shape
  if len(shape) != 3 or shape[2] != num_channels or not shape[1]:
    raise ValueError(
      f'{subject} must have shape [B, M, {num_channels}] with M at least 1, '
      f'got {list(shape)}.'
    )
  if not jnp.issubdtype(inputs.dtype, jnp.floating):
    raise TypeError(f'{subject} must be floating point, got {inputs.dtype}.')
  return jnp.asarray(inputs)


def _check_single(subject: str, mask: Any, config: Config) -> None:
  """Checks that a mask is not that of several modalities."""
  if isinstance(mask, Mapping):
    raise ValueError(
      f'{subject} must be one array for {type(config).__name__}, got a dict.'
    )
