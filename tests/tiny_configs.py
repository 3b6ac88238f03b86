"""Every preset, shrunk, with inputs and masks that fit it."""

import dataclasses
import inspect
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from perceiver_jax import presets
from perceiver_jax.config import Config
from perceiver_jax.modalities.audio import (
  AudioInput,
  AudioOutput,
  SpectrogramInput,
)
from perceiver_jax.modalities.entities import EntitiesInput
from perceiver_jax.modalities.flow import FlowInput
from perceiver_jax.modalities.grid import FourierPositions, LearnedPositions
from perceiver_jax.modalities.image import ConvEmbedding, ImageInput
from perceiver_jax.modalities.label import LabelInput
from perceiver_jax.modalities.multimodal import MultimodalInput
from perceiver_jax.modalities.points import PointsInput
from perceiver_jax.modalities.text import TextInput
from perceiver_jax.modalities.video import VideoInput, VideoOutput
from perceiver_jax.model import PerceiverConfig

BATCH_SIZE = 2
# What fields become wherever a config has them; None stays.
_SMALL = {
  'num_latents': 3,
  'latent_channels': 8,
  'num_self_attends_per_block': 1,
  'qk_channels': 8,
  'v_channels': 8,
  'query_channels': 12,
  'projected_channels': 8,
  'head_channels': 8,
  'embedding_channels': 12,
  'position_projection': 6,
  'channels': 6,
  'num_channels': 6,
  'num_bands': 1,
  'max_frequency': 4.0,
  'vocab_size': 11,
  'max_length': 6,
  'num_classes': 5,
  'samples_per_patch': 4,
  'window_size': 64,
  'hop_size': 32,
  'num_mels': 2,
  'min_hz': 1e3,
}


class _Example(NamedTuple):
  """Small inputs of a modality.

  Attributes:
    shape: of the inputs of one example.
    is_used: which tokens `mask_of` leaves in: the first.
    hidden: which inputs, of all examples, only the other tokens see.
  """

  shape: tuple[int, ...]
  is_used: tuple[bool, ...]
  hidden: Any


def _used(count: int, total: int) -> tuple[bool, ...]:
  return (True,) * count + (False,) * (total - count)


_EXAMPLES = {
  ImageInput: _Example((4, 3, 3), _used(6, 12), np.s_[:, 2:]),
  # The second of four rows of tokens sees pixels up to row 12.
  ConvEmbedding: _Example((16, 4, 3), _used(2, 4), np.s_[:, 13:]),
  VideoInput: _Example((2, 4, 4, 3), _used(4, 8), np.s_[:, 1:]),
  AudioInput: _Example((16, 1), _used(3, 4), np.s_[:, 12:]),
  # The third of four frames sees samples up to 95.
  SpectrogramInput: _Example((128, 1), _used(6, 8), np.s_[:, 112:]),
  # A pixel sees the next row, too.
  FlowInput: _Example((2, 4, 3, 3), _used(6, 12), np.s_[:, :, 3:]),
  PointsInput: _Example((5, 3), _used(3, 5), np.s_[:, 3:]),
  EntitiesInput: _Example((5, 4), _used(3, 5), np.s_[:, 3:]),
  TextInput: _Example((6,), _used(4, 6), np.s_[:, 4:]),
  LabelInput: _Example((5,), _used(1, 1), np.s_[:, 5:]),
}


def _example(config) -> _Example:
  is_stem = isinstance(getattr(config, 'embedding', None), ConvEmbedding)
  return _EXAMPLES[ConvEmbedding if is_stem else type(config)]


def inputs_of(config, seed: int = 0) -> Any:
  """Returns random inputs of a shrunk modality."""
  if isinstance(config, MultimodalInput):
    return {
      name: inputs_of(part, seed) for name, part in config.modalities.items()
    }
  rng = np.random.default_rng(seed)
  shape = (BATCH_SIZE, *_example(config).shape)
  if isinstance(config, TextInput):
    return rng.integers(config.vocab_size, size=shape, dtype=np.int32)
  return rng.uniform(-1.0, 1.0, shape).astype(np.float32)


def mask_of(config) -> np.ndarray:
  """Returns an `input_mask` that leaves tokens of every example out."""
  if isinstance(config, MultimodalInput):
    parts = [mask_of(part) for _, part in sorted(config.modalities.items())]
    return np.concatenate(parts, axis=1)
  return np.tile(_example(config).is_used, (BATCH_SIZE, 1))


def hidden_of(config) -> Any:
  """Returns which inputs are seen by no token that `mask_of` uses."""
  if isinstance(config, MultimodalInput):
    return {name: hidden_of(part) for name, part in config.modalities.items()}
  shape, _, index = _example(config)
  hidden = np.zeros((BATCH_SIZE, *shape), bool)
  hidden[index] = True
  return hidden


def random_like(shapes: Any, seed: int = 0) -> Any:
  """Draws values far from the initial ones, which might hide mistakes."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    values = rng.normal(size=leaf.shape)
    if path[-1].key in ('scale', 'average', 'hidden'):
      values = 1.0 + 0.1 * values
    elif path[-1].key == 'w':
      values /= np.sqrt(leaf.shape[-2])
    return jnp.asarray(values, leaf.dtype)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def shrunk(config: PerceiverConfig) -> PerceiverConfig:
  """Returns the config with few latents, layers, channels and outputs."""
  config = config.copy()
  _shrink(config)
  config.num_cross_attends = min(2, config.num_cross_attends)
  config.num_blocks = config.num_cross_attends
  return config


def _shrink(config: Config) -> None:
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    if isinstance(value, Config):
      _shrink(value)
    elif isinstance(value, dict):
      for part in value.values():
        if isinstance(part, Config):
          _shrink(part)
    elif value is not None and field.name in _SMALL:
      setattr(config, field.name, _SMALL[field.name])
    elif field.name == 'num_heads':
      config.num_heads = min(2, value)
  if isinstance(config, FourierPositions):
    config.max_resolution = None
  elif isinstance(config, LearnedPositions):
    config.grid = _EXAMPLES[ImageInput].shape[:2]
  elif isinstance(config, VideoInput):
    config.patch_size = (1, 2, 2)
  elif isinstance(config, VideoOutput):
    config.size = (2, 2, 3)
  elif isinstance(config, AudioInput | AudioOutput):
    config.num_samples = 16
  elif isinstance(config, EntitiesInput):
    config.num_features = 4
  elif isinstance(config, SpectrogramInput):
    config.num_samples = 128


def _variants() -> Iterator[tuple[str, PerceiverConfig]]:
  """Every preset, and again with each of its switches flipped."""
  for name, preset in inspect.getmembers(presets, inspect.isfunction):
    if not preset.__module__.startswith(presets.__name__):
      continue
    yield name, preset()
    for switch, parameter in inspect.signature(preset).parameters.items():
      value = not parameter.default
      yield f'{name}.{switch}={value}', preset(**{switch: value})


FULL_PRESETS = dict(_variants())
PRESETS = {name: shrunk(config) for name, config in FULL_PRESETS.items()}
# The inputs and the training queries of `perceiver_io_kinetics_autoencoding` at
# full size.
KINETICS = {
  'audio': jax.ShapeDtypeStruct((1, 30_720, 1), jnp.float32),
  'image': jax.ShapeDtypeStruct((1, 16, 224, 224, 3), jnp.float32),
  'label': jax.ShapeDtypeStruct((1, 700), jnp.float32),
}
KINETICS_QUERIES = {
  'audio': np.arange(512),
  'image': np.arange(512),
  'label': None,
}
