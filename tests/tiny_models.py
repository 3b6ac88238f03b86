"""Small models with random weights, of every task that `predict` has."""

import functools

import jax
import numpy as np

import perceiver_jax
from perceiver_jax.modalities.audio import (
  AudioInput,
  AudioOutput,
  SpectrogramInput,
)
from perceiver_jax.modalities.flow import FlowInput, FlowOutput
from perceiver_jax.modalities.grid import FourierPositions
from perceiver_jax.modalities.image import ImageInput
from perceiver_jax.modalities.label import LabelInput, LabelOutput
from perceiver_jax.modalities.multimodal import (
  MultimodalInput,
  MultimodalOutput,
)
from perceiver_jax.modalities.text import TextInput, TextOutput
from perceiver_jax.modalities.video import VideoInput, VideoOutput
from perceiver_jax.model import AttentionDecoder, PerceiverConfig
from perceiver_jax.nn.blocks import CrossAttendConfig, SelfAttendConfig


def _config(inputs, outputs, query_channels, **fields):
  return PerceiverConfig(
    inputs=inputs,
    outputs=outputs,
    num_latents=6,
    latent_channels=8,
    num_blocks=2,
    num_self_attends_per_block=1,
    self_attend=SelfAttendConfig(num_heads=2),
    decoder=AttentionDecoder(
      query_channels=query_channels,
      cross_attend=CrossAttendConfig(use_query_residual=False),
    ),
    **fields,
  )


def _pretrained(config):
  init = perceiver_jax.build_with_state(config).init
  shapes = jax.eval_shape(init, jax.random.key(0), config.inputs.example())
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    values = rng.normal(size=leaf.shape)
    if path[-1].key == 'scale':
      values = 1.0 + 0.1 * values
    elif path[-1].key == 'w':
      values /= np.sqrt(leaf.shape[0])
    return values.astype(leaf.dtype)

  weights = jax.tree_util.tree_map_with_path(draw, shapes)
  return perceiver_jax.Pretrained(config, *weights)


@functools.cache
def images():
  """A classifier of images of 28 x 28 pixels, with two cross-attends."""
  positions = FourierPositions(num_bands=4, max_resolution=(28.0, 28.0))
  return _pretrained(
    _config(
      ImageInput(positions=positions),
      LabelOutput(num_classes=7),
      8,
      num_cross_attends=2,
    )
  )


@functools.cache
def text():
  """A masked language model on up to 96 bytes."""
  inputs = TextInput(max_length=96, embedding_channels=8)
  return _pretrained(_config(inputs, TextOutput(max_length=96), 8))


@functools.cache
def flow(rows=16, columns=24):
  """A model of optical flow on small tiles."""
  positions = FourierPositions(num_bands=4, max_resolution=(rows, columns))
  inputs = FlowInput(positions=positions, embedding_channels=6)
  return _pretrained(_config(inputs, FlowOutput(divisor=1.0), None))


@functools.cache
def autoencoder():
  """An autoencoder of clips of 2 frames of 8 x 8 pixels, 3,840 samples."""
  bands = FourierPositions(num_bands=3)
  inputs = {
    'image': VideoInput(patch_size=(1, 4, 4), positions=bands),
    'audio': AudioInput(num_samples=3840, positions=bands),
    'label': LabelInput(num_classes=3),
  }
  outputs = {
    'image': VideoOutput(size=(2, 8, 8), positions=bands),
    'audio': AudioOutput(num_samples=3840, positions=bands),
    'label': LabelOutput(num_classes=3),
  }
  return _pretrained(
    _config(
      MultimodalInput(
        modalities=inputs,
        mask_probs={'label': 0.5},
        masked_in_evaluation=('label',),
      ),
      MultimodalOutput(modalities=outputs, projected_channels=9),
      23,
    )
  )


def _sounds(is_raw):
  if is_raw:
    positions = FourierPositions(num_bands=2, max_resolution=(120,))
    return AudioInput(
      samples_per_patch=512, num_samples=61_440, positions=positions
    )
  return SpectrogramInput(
    num_mels=16,
    patch_size=(4, 2),
    num_samples=61_440,
    log_mean=-8.0,
    log_std=4.0,
    positions=FourierPositions(num_bands=2, max_resolution=(15, 8)),
  )


@functools.cache
def tagger(is_raw=False, has_video=True):
  """A model of 527 tags of 1.28 s of sound and 32 frames of 24 x 16 pixels."""
  inputs = _sounds(is_raw)
  if has_video:
    positions = FourierPositions(num_bands=2, max_resolution=(16, 3, 2))
    video = VideoInput(patch_size=(2, 8, 8), positions=positions)
    inputs = MultimodalInput(modalities={'audio': inputs, 'video': video})
  return _pretrained(
    _config(inputs, LabelOutput(num_classes=527), 8, num_cross_attends=2)
  )
