"""Several modalities at once, as inputs and as outputs."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import haiku as hk
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from perceiver_jax.arrays import ExampleRngs, InputMask, Masks, QueryMask
from perceiver_jax.modalities.base import (
  Head,
  InputConfig,
  InputModality,
  OutputConfig,
  OutputModality,
  check_mask,
)
from perceiver_jax.modalities.example_rngs import bernoulli, split
from perceiver_jax.nn.attention import Linear
from perceiver_jax.nn.positions import learned_positions
from perceiver_jax.nn.tokens import AnyTokens, JoinedTokens, Tokens

_INIT_SCALE = 0.02


class MultimodalInput(InputConfig):
  """A dict of inputs of several modalities.

  The tokens of each modality get learned channels, the same for all of its
  tokens, up to a common width; these also tell the modalities apart. Tokens
  stand by modality, in alphabetical order, as in the published model.

  Attributes:
    modalities: what the inputs are, by name.
    min_padding: learned channels of the modality with the widest tokens; the
      others have as many more as they need. Both papers used 4.
    mask_probs: modalities with a learned token that can stand in for theirs,
      and with what probability it does in training, for each token alone.
    masked_in_evaluation: those of them whose tokens are all replaced outside
      of training, such as a label that is to be predicted.
    drop_probs: with what probability all content of a modality is zeroed in
      training, for each example alone. Learned channels stay, and so do
      positions, except where they are part of the content: of `PointsInput`
      and `TextInput`, and with `Combine.ADD`.
  """

  modalities: dict[str, InputConfig]
  min_padding: int = 4
  mask_probs: dict[str, float] = dataclasses.field(default_factory=dict)
  masked_in_evaluation: tuple[str, ...] = ()
  drop_probs: dict[str, float] = dataclasses.field(default_factory=dict)

  @property
  def channel_sources(self) -> dict[str, int]:
    widest = max(config.num_channels for config in self.modalities.values())
    return {'widest modality': widest, 'learned': self.min_padding}

  @property
  def has_state(self) -> bool:
    return any(config.has_state for config in self.modalities.values())

  def example(self) -> dict[str, Any]:
    return {name: m.example() for name, m in self.modalities.items()}

  def validate(self) -> None:
    super().validate()
    _validate_names('modalities', self.modalities)
    self._validate_at_least(0, 'min_padding')
    for field in ('mask_probs', 'drop_probs'):
      probs = getattr(self, field)
      _validate_subset(field, probs, self.modalities)
      if not all(0.0 <= prob <= 1.0 for prob in probs.values()):
        raise ValueError(f'{field} must be in [0, 1], got {dict(probs)}.')
    _validate_subset(
      'masked_in_evaluation', self.masked_in_evaluation, self.mask_probs
    )

  def cast(self, inputs: Mapping[str, Any], dtype: jnp.dtype) -> dict[str, Any]:
    _check_names('inputs', inputs, self.modalities)
    return {
      name: config.cast(inputs[name], dtype)
      for name, config in self.modalities.items()
    }

  def join_masks(
    self,
    input_mask: InputMask | Masks | None,
    tokens: JoinedTokens,
  ) -> InputMask | None:
    """Joins masks of modalities, where None or no mask means all tokens."""
    if not isinstance(input_mask, Mapping):
      return super().join_masks(input_mask, tokens)
    batch_size = tokens.batch_size
    return _joined('input_mask', input_mask, tokens.counts, batch_size)

  def make(self, name: str) -> 'MultimodalModality':
    return MultimodalModality(self, name=name)


class MultimodalModality(hk.Module):
  """Turns a dict of inputs into tokens; see `MultimodalInput`."""

  @hk.name_like('__call__')
  def __init__(self, config: MultimodalInput, name: str | None = None):
    super().__init__(name)
    self._config = config
    self.modalities: dict[str, InputModality] = {
      key: config.modalities[key].make(key) for key in sorted(config.modalities)
    }

  def __call__(
    self,
    inputs: Mapping[str, Any],
    *,
    is_training: bool,
    rngs: ExampleRngs | None = None,
  ) -> JoinedTokens:
    _check_names('inputs', inputs, self.modalities)
    blocks, keys = [], split(rngs, 3 * len(self.modalities))
    for number, (name, modality) in enumerate(self.modalities.items()):
      own, drop, mask = keys[3 * number : 3 * number + 3]
      tokens = modality(inputs[name], is_training=is_training, rngs=own)
      tokens = _as_block(tokens)
      if is_training and name in self._config.drop_probs:
        tokens = self._dropped(name, tokens, drop)
      tokens = _with_constant(name, tokens, self._config.num_channels)
      blocks.append(self._masked(name, tokens, mask, is_training))
    return JoinedTokens(tuple(blocks), tuple(self.modalities))

  @hk.transparent
  def _dropped(
    self, name: str, tokens: Tokens, rngs: ExampleRngs | None
  ) -> Tokens:
    """Zeroes the content of some examples."""
    content, prob = tokens.content, self._config.drop_probs[name]
    drop = bernoulli(rngs, prob, (len(content),) + (1,) * (content.ndim - 1))
    return dataclasses.replace(tokens, content=jnp.where(drop, 0.0, content))

  @hk.transparent
  def _masked(
    self, name: str, tokens: Tokens, rngs: ExampleRngs | None, is_training: bool
  ) -> Tokens:
    """Replaces some tokens by the learned one."""
    config = self._config
    if name not in config.mask_probs:
      return tokens
    (mask_token,) = learned_positions(
      1, tokens.num_channels, _INIT_SCALE, f'{name}_mask_token'
    )
    prob = config.mask_probs[name]
    if is_training and prob > 0.0:
      # What a token has in common with others of the grid is gone.
      dense = tokens.dense()
      mask = bernoulli(rngs, prob, (*dense.shape[:2], 1))
      return Tokens(jnp.where(mask, mask_token.astype(dense.dtype), dense))
    if not is_training and name in config.masked_in_evaluation:
      return Tokens(tokens.content[..., :0], constant=mask_token)
    return tokens


class MultimodalOutput(OutputConfig):
  """A dict of outputs of several modalities, read by one decoder.

  The queries of each modality get learned channels to bring them to the
  `query_channels` of the decoder, and stand one after the other, modalities in
  alphabetical order. Raw queries are a dict, too: it names the modalities that
  are wanted and holds their raw queries, or None for all of theirs.

  Attributes:
    modalities: what the outputs are, by name.
    min_padding: learned channels of a query whose modality makes as many
      channels as it is asked for. The published model has 2.
    query_channels: for such a modality, how many channels it is asked for
      instead of all but `min_padding`.
    projected_channels: channels of a linear layer, shared by all modalities,
      between the decoder and the modality's own layers; None: no such layer.
  """

  modalities: dict[str, OutputConfig]
  min_padding: int = 2
  query_channels: dict[str, int] = dataclasses.field(default_factory=dict)
  projected_channels: int | None = 512

  def channels_asked_for(self, name: str, num_channels: int) -> int:
    """Returns the channels of a modality's own queries.

    Args:
      name: of the modality.
      num_channels: of all queries, with padding.
    """
    own = self.modalities[name].num_query_channels
    if own is not None:
      return own
    return self.query_channels.get(name, num_channels - self.min_padding)

  def validate(self) -> None:
    super().validate()
    _validate_names('modalities', self.modalities)
    self._validate_at_least(0, 'min_padding')
    self._validate_at_least(1, 'projected_channels')
    for name, config in self.modalities.items():
      if config.is_queried_by_inputs:
        raise ValueError(
          'modalities must have queries of their own, got '
          f'{name!r}, which is queried by the inputs.'
        )
      if isinstance(config, MultimodalOutput):
        raise ValueError(
          f'modalities must be single ones, got {name!r}, a MultimodalOutput.'
        )
    _validate_subset('query_channels', self.query_channels, self.modalities)

  def validate_fit(self, inputs: InputConfig, decoded_channels: int) -> None:
    for name, config in self.modalities.items():
      asked = self.channels_asked_for(name, decoded_channels)
      if not 1 <= asked <= decoded_channels:
        raise ValueError(
          'query_channels of the decoder must be at least those of every '
          f'modality, got {decoded_channels}, and {asked} of {name!r}.'
        )
      if isinstance(inputs, MultimodalInput):
        own_inputs = inputs.modalities.get(name, inputs)
      else:
        own_inputs = inputs
      projected = self.projected_channels
      channels = decoded_channels if projected is None else projected
      config.validate_fit(own_inputs, channels)

  def join_masks(
    self,
    query_mask: QueryMask | Masks | None,
    modality: 'MultimodalOutputModality',
    raw_queries: Mapping[str, Any] | None,
    batch_size: int,
  ) -> QueryMask | None:
    """Joins masks of modalities, where None or no mask means all queries."""
    if not isinstance(query_mask, Mapping):
      return query_mask
    counts = modality.counts(raw_queries)
    return _joined('query_mask', query_mask, counts, batch_size)

  def make(
    self, name: str, inputs: InputModality
  ) -> 'MultimodalOutputModality':
    return MultimodalOutputModality(self, inputs, name=name)


class MultimodalOutputModality(hk.Module):
  """Makes queries for, and outputs of, several modalities."""

  @hk.name_like('__call__')
  def __init__(
    self,
    config: MultimodalOutput,
    inputs: InputModality,
    name: str | None = None,
  ):
    super().__init__(name)
    self._config = config
    is_multimodal = isinstance(inputs, MultimodalModality)
    own_inputs = inputs.modalities if is_multimodal else {}
    self._modalities: dict[str, OutputModality] = {
      key: config.modalities[key].make(key, own_inputs.get(key, inputs))
      for key in sorted(config.modalities)
    }

  @hk.transparent
  def queries(
    self,
    raw_queries: Mapping[str, Any] | None,
    batch_size: int,
    num_channels: int,
  ) -> JoinedTokens:
    blocks = []
    wanted = self._wanted(raw_queries)
    for name, raw in wanted.items():
      asked = self._config.channels_asked_for(name, num_channels)
      with hk.name_scope(name):
        own = self._modalities[name].queries(raw, batch_size, asked)
      blocks.append(_with_constant(name, own, num_channels))
    return JoinedTokens(tuple(blocks), tuple(wanted))

  def num_queries(self, raw_queries: Mapping[str, Any] | None) -> int:
    return sum(self.counts(raw_queries).values())

  def heads(self, raw_queries: Mapping[str, Any] | None) -> tuple[Head, ...]:
    return tuple(
      functools.partial(self._head, name) for name in self._wanted(raw_queries)
    )

  @hk.name_like('__call__')
  def _head(
    self, name: str, decoded: Float[Array, 'B O E']
  ) -> Float[Array, 'B O K']:
    if self._config.projected_channels is not None:
      project = Linear(self._config.projected_channels, name='projection')
      decoded = project(decoded)
    (head,) = self._modalities[name].heads(None)
    return head(decoded)

  def arrange(
    self,
    made: Sequence[Float[Array, 'B _ _']],
    raw_queries: Mapping[str, Any] | None,
  ) -> dict[str, Any]:
    wanted = self._wanted(raw_queries)
    return {
      name: self._modalities[name].arrange([array], raw)
      for (name, raw), array in zip(wanted.items(), made, strict=True)
    }

  @hk.transparent
  def counts(self, raw_queries: Mapping[str, Any] | None) -> dict[str, int]:
    """Returns how many queries each modality has, in order."""
    return {
      name: self._modalities[name].num_queries(raw)
      for name, raw in self._wanted(raw_queries).items()
    }

  def _wanted(self, raw_queries: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns the raw queries of the modalities that are wanted, in order."""
    if raw_queries is None:
      return dict.fromkeys(self._modalities)
    if not isinstance(raw_queries, Mapping) or not raw_queries:
      raise ValueError(
        'queries must be a dict of the modalities that are wanted, of '
        f'{list(self._modalities)}, got {raw_queries!r}.'
      )
    _validate_subset('queries', raw_queries, self._modalities)
    return {name: raw_queries[name] for name in sorted(raw_queries)}


def _as_block(tokens: AnyTokens) -> Tokens:
  """Returns tokens as one block, dense if they are several."""
  return tokens if isinstance(tokens, Tokens) else Tokens(tokens.dense())


def _with_constant(name: str, tokens: Tokens, num_channels: int) -> Tokens:
  """Gives all tokens the same learned channels, up to a common number."""
  count = num_channels - tokens.num_channels
  if count == 0:
    return tokens
  (constant,) = learned_positions(1, count, _INIT_SCALE, f'{name}_padding')
  if tokens.constant is not None:
    constant = jnp.concatenate([tokens.constant, constant])
  return dataclasses.replace(tokens, constant=constant)


def _joined(
  subject: str,
  masks: Mapping[str, Any],
  counts: Mapping[str, int],
  batch_size: int,
) -> Bool[Array, 'B m']:
  """Joins the masks of modalities; without a mask all elements are used."""
  _validate_subset(subject, masks, counts)
  parts = []
  for name, count in counts.items():
    mask = masks.get(name)
    if mask is None:
      mask = jnp.ones((batch_size, count), bool)
    check_mask(f'{subject}[{name!r}]', mask, (batch_size, count))
    parts.append(mask)
  return jnp.concatenate(parts, axis=1)


def _check_names(
  subject: str, given: Any, modalities: Mapping[str, Any]
) -> None:
  """Checks that a dict has exactly the modalities."""
  found = sorted(given) if isinstance(given, Mapping) else type(given).__name__
  if found != sorted(modalities):
    raise ValueError(
      f'{subject} must have exactly the modalities {sorted(modalities)}, '
      f'got {found}.'
    )


def _validate_subset(subject: str, names: Any, allowed: Any) -> None:
  unknown = sorted(set(names) - set(allowed))
  if unknown:
    raise ValueError(
      f'{subject} must name modalities of {sorted(allowed)}, got {unknown}.'
    )


def _validate_names(subject: str, modalities: Mapping[str, Any]) -> None:
  """Checks that names can be those of modules and of JSON fields."""
  if not modalities:
    raise ValueError(f'{subject} must not be empty, got {{}}.')
  for name in modalities:
    # In a JSON object, 'class' stands for the class of a config.
    if not name.isidentifier() or name == 'class':
      raise ValueError(
        f"{subject} must have names that are identifiers and not 'class', "
        f'got {name!r}.'
      )
