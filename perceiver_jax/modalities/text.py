"""Text as inputs and outputs: a tokenizer of bytes, embeddings, tied logits."""

from collections.abc import Sequence
from typing import NamedTuple, SupportsIndex

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from perceiver_jax.arrays import AnyArray, ExampleRngs
from perceiver_jax.modalities.base import (
  InputConfig,
  InputModality,
  OneHead,
  OutputConfig,
)
from perceiver_jax.nn.positions import learned_positions
from perceiver_jax.nn.tokens import Tokens

Ids = Sequence[SupportsIndex] | Int[AnyArray, '...']
"""Ids of tokens."""


class TextBatch(NamedTuple):
  """Texts of different lengths in one array.

  Attributes:
    ids: of tokens, padded at the end.
    mask: which of them are not padding: the `input_mask` of a model.
  """

  ids: Int[np.ndarray, 'B M']
  mask: Bool[np.ndarray, 'B M']


class BytesTokenizer:
  """Turns text into bytes, each a token, after six special tokens.

  Source: the published masked language model on bytes: byte + 6.
  """

  PAD, BOS, EOS, MASK, CLS, SEP = range(6)
  num_special = 6
  vocab_size = 256 + num_special

  def encode(self, text: str | bytes) -> Int[np.ndarray, ' M']:
    """Returns the ids of the UTF-8 bytes of a text, or of bytes as they are."""
    data = text.encode('utf-8') if isinstance(text, str) else bytes(text)
    return np.frombuffer(data, np.uint8).astype(np.int32) + self.num_special

  def decode_bytes(self, ids: Ids) -> bytes:
    """Returns the bytes of ids; special tokens have none.

    Raises:
      ValueError: an id is not in [0, 262).
    """
    ids = np.asarray(ids, np.int64).reshape(-1)
    wrong = ids[(ids < 0) | (ids >= self.vocab_size)]
    if wrong.size:
      raise ValueError(
        f'ids must be in [0, {self.vocab_size}), got {wrong[:8].tolist()}.'
      )
    data = ids[ids >= self.num_special] - self.num_special
    return data.astype(np.uint8).tobytes()

  def decode(self, ids: Ids) -> str:
    """Returns the text of ids, with U+FFFD for what is not UTF-8."""
    return self.decode_bytes(ids).decode('utf-8', errors='replace')

  def batch(
    self, texts: Sequence[str | bytes], length: int | None = None
  ) -> TextBatch:
    """Encodes texts and pads them to one length.

    Args:
      texts: at least one.
      length: of every row; None: of the longest text, and at least 1.

    Raises:
      ValueError: there is no text, or one has more than `length` bytes.
    """
    if isinstance(texts, str | bytes) or not len(texts):
      raise ValueError(f'texts must be one text or more in a list, got {texts}')
    rows = [self.encode(text) for text in texts]
    if length is None:
      length = max(1, *map(len, rows))
    for index, row in enumerate(rows):
      if len(row) > length:
        raise ValueError(
          f'a text must have at most {length} bytes, got {len(row)} in text '
          f'{index}; cut it, or split it into several.'
        )
    ids = np.full((len(rows), length), self.PAD, np.int32)
    for index, row in enumerate(rows):
      ids[index, : len(row)] = row
    lengths = np.array([len(row) for row in rows])
    return TextBatch(ids, np.arange(length) < lengths[:, None])


class TextInput(InputConfig):
  """Ids of tokens [B, M], integers, as inputs.

  A token is an embedding plus a learned position. Padding is for `input_mask`
  to leave out. An id that is not in the vocabulary reads NaN.

  Attributes:
    vocab_size: number V of different tokens.
    max_length: the largest number M of tokens.
    embedding_channels: number C of channels.
    embedding_init_scale: standard deviation of the truncated normal that
      embeddings start from. That of the published model is not known.
    position_init_scale: the same for positions.
  """

  vocab_size: int = BytesTokenizer.vocab_size
  max_length: int = 2048
  embedding_channels: int = 768
  embedding_init_scale: float = 0.02
  position_init_scale: float = 0.02

  @property
  def channel_sources(self) -> dict[str, int]:
    return {'embeddings and learned positions': self.embedding_channels}

  @property
  def positions_note(self) -> str:
    size = f'{self.max_length} learned rows of {self.embedding_channels}'
    return f'{size} channels, added'

  def example(self) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, 1), jnp.int32)

  def validate(self) -> None:
    super().validate()
    self._validate_at_least(1, 'vocab_size', 'max_length', 'embedding_channels')
    self._validate_at_least(0, 'embedding_init_scale', 'position_init_scale')

  def make(self, name: str) -> 'TextModality':
    return TextModality(self, name=name)


class TextModality(hk.Module):
  """Turns ids into tokens; see `TextInput`."""

  def __init__(self, config: TextInput, name: str | None = None):
    super().__init__(name)
    self._config = config

  @hk.name_like('__call__')
  def embeddings(self) -> Float[Array, 'V C']:
    """Returns the table that outputs may share."""
    config = self._config
    init = hk.initializers.TruncatedNormal(config.embedding_init_scale)
    shape = [config.vocab_size, config.embedding_channels]
    return hk.get_parameter('embeddings', shape, init=init)

  def __call__(
    self,
    inputs: Int[AnyArray, 'B M'],
    *,
    is_training: bool,
    rngs: ExampleRngs | None = None,
  ) -> Tokens:
    del is_training, rngs
    config = self._config
    if not jnp.issubdtype(inputs.dtype, jnp.integer):
      raise TypeError(f'ids must be integers, got {inputs.dtype}.')
    if inputs.ndim != 2 or not 1 <= inputs.shape[1] <= config.max_length:
      raise ValueError(
        f'ids must have shape [B, M] with M from 1 to {config.max_length}, '
        f'got {list(inputs.shape)}.'
      )
    positions = learned_positions(
      config.max_length,
      config.embedding_channels,
      config.position_init_scale,
      'positions',
    )
    embedded = _rows(self.embeddings(), inputs)
    return Tokens(embedded + positions[: inputs.shape[1]])


class TextOutput(OutputConfig):
  """Logits over the vocabulary at positions of a text [B, O, V].

  Each position has a learned query. What it reads is compared with the
  embeddings of the inputs, and a bias is added. Raw queries are the positions
  that are wanted [B, O], integers, such as those of masked tokens; None: all.
  A position that does not exist reads NaN.

  Attributes:
    max_length: number of positions.
    query_init_scale: standard deviation of the truncated normal that queries
      start from.
  """

  max_length: int = 2048
  query_init_scale: float = 0.02

  def validate(self) -> None:
    super().validate()
    self._validate_at_least(1, 'max_length')
    self._validate_at_least(0, 'query_init_scale')

  def validate_fit(self, inputs: InputConfig, decoded_channels: int) -> None:
    if not isinstance(inputs, TextInput):
      raise ValueError(
        'the inputs of a TextOutput must be a TextInput, whose embeddings it '
        f'shares, got {type(inputs).__name__}.'
      )
    if decoded_channels != inputs.num_channels:
      raise ValueError(
        f'query_channels must be {inputs.num_channels} for a TextOutput, the '
        f'channels of the embeddings it shares, got {decoded_channels}.'
      )

  def make(self, name: str, inputs: InputModality) -> 'TextOutputModality':
    return TextOutputModality(self, inputs, name=name)


class TextOutputModality(OneHead):
  """Makes queries for positions, and logits of what they read."""

  def __init__(
    self, config: TextOutput, inputs: TextModality, name: str | None = None
  ):
    super().__init__(name)
    self._config = config
    self._inputs = inputs

  def num_queries(self, raw_queries: Int[AnyArray, 'B O'] | None) -> int:
    if raw_queries is None:
      return self._config.max_length
    return raw_queries.shape[1]

  @hk.transparent
  def queries(
    self,
    raw_queries: Int[AnyArray, 'B O'] | None,
    batch_size: int,
    num_channels: int,
  ) -> Tokens:
    config = self._config
    table = learned_positions(
      config.max_length, num_channels, config.query_init_scale, 'queries'
    )
    if raw_queries is None:
      return Tokens(jnp.broadcast_to(table, (batch_size, *table.shape)))
    is_integer = jnp.issubdtype(raw_queries.dtype, jnp.integer)
    if raw_queries.ndim != 2 or len(raw_queries) != batch_size:
      raise ValueError(
        f'queries must be positions of shape [{batch_size}, O], '
        f'got {list(raw_queries.shape)}.'
      )
    if not is_integer:
      raise TypeError(
        f'queries must be positions, integers, got {raw_queries.dtype}.'
      )
    return Tokens(_rows(table, raw_queries))

  @hk.name_like('__call__')
  def head(self, decoded: Float[Array, 'B O E']) -> Float[Array, 'B O V']:
    embeddings = self._inputs.embeddings()
    bias = hk.get_parameter('bias', [len(embeddings)], init=jnp.zeros)
    logits = jnp.einsum(
      'boe,ve->bov', decoded, embeddings, preferred_element_type=jnp.float32
    )
    return logits + bias


def _rows(
  table: Float[Array, 'V C'], indices: Int[AnyArray, '*shape']
) -> Float[Array, '*shape C']:
  """Looks rows up; one that does not exist is NaN.

  The gradient of a row is added up in float32, and not in bfloat16: a text has
  hundreds of the same letter.
  """
  # Negative indices would count from the end.
  indices = jnp.where(indices < 0, len(table), indices)
  rows = jnp.asarray(table, jnp.float32)
  rows = rows.at[indices].get(mode='fill', fill_value=jnp.nan)
  return rows.astype(table.dtype)
