"""Bad input to the model: each error names subject, rule and value."""

import math

import jax
import numpy as np
import pytest

import perceiver_jax
from perceiver_jax.modalities.audio import (
  AudioInput,
  AudioOutput,
  SpectrogramInput,
)
from perceiver_jax.modalities.flow import FlowInput
from perceiver_jax.modalities.image import (
  Combine,
  Conv1x1Embedding,
  ConvEmbedding,
  FourierPositions,
  ImageInput,
  LearnedPositions,
  PatchEmbedding,
)
from perceiver_jax.modalities.label import LabelInput, LabelOutput
from perceiver_jax.modalities.multimodal import MultimodalOutput
from perceiver_jax.modalities.text import TextInput, TextOutput
from perceiver_jax.modalities.video import VideoInput, VideoOutput
from perceiver_jax.model import (
  AttentionDecoder,
  AverageDecoder,
  PerceiverConfig,
)
from perceiver_jax.nn.blocks import CrossAttendConfig, SelfAttendConfig

IMAGES = np.zeros((2, 8, 8, 3), np.float32)
RNG = jax.random.key(0)


def _config(**changes):
  fields = {
    'inputs': ImageInput(positions=FourierPositions(num_bands=2)),
    'outputs': LabelOutput(num_classes=5),
    'num_latents': 4,
    'latent_channels': 8,
    'num_blocks': 2,
    'num_self_attends_per_block': 1,
    'self_attend': SelfAttendConfig(num_heads=2),
    'decoder': AverageDecoder(),
  }
  return PerceiverConfig(**(fields | changes))


def _apply(config, images=IMAGES, **kwargs):
  perceiver = perceiver_jax.build(config)
  params = jax.eval_shape(perceiver.init, RNG, IMAGES)
  return jax.eval_shape(
    lambda params: perceiver.apply(params, None, images, **kwargs), params
  )


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (
      {'self_attend': SelfAttendConfig(num_heads=3)},
      'qk_channels must be a positive multiple of num_heads 3, got 8',
    ),
    (
      {'cross_attend': CrossAttendConfig(num_heads=2)},
      'qk_channels must be a positive multiple of num_heads 2, got 13',
    ),
    (
      {'cross_attend': CrossAttendConfig(num_heads=2, qk_channels=4,
                                         v_channels=5)},
      'v_channels must be a positive multiple of num_heads 2, got 5',
    ),
    (
      {'num_cross_attends': 2, 'num_blocks': 3},
      'num_blocks must be divisible by num_cross_attends 2.* got 3',
    ),
    ({'num_latents': 0}, 'num_latents must be at least 1, got 0'),
    (
      {'self_attend': SelfAttendConfig(num_heads=0)},
      'num_heads must be at least 1, got 0',
    ),
    (
      {'self_attend': SelfAttendConfig(dropout_prob=1.0)},
      r'dropout_prob must be in \[0, 1\), got 1.0',
    ),
    ({'outputs': LabelOutput(num_classes=0)}, 'num_classes must be at least 1'),
    (
      {'inputs': ImageInput(combine=Combine.ADD)},
      'must have 3 channels like the content, got 258; set position_proj',
    ),
    (
      {'inputs': ImageInput(positions=None, position_projection=4)},
      'position_projection must be None without positions, got 4',
    ),
    (
      {'inputs': ImageInput(embedding=ConvEmbedding())},
      'ImageInput with batch normalisation; use build_with_state',
    ),
  ],
)  # fmt: skip
def test_inconsistent_config_is_refused_by_build(changes, message):
  with pytest.raises(ValueError, match=message):
    perceiver_jax.build(_config(**changes))


@pytest.mark.parametrize(
  ('config', 'message'),
  [
    (PatchEmbedding(patch_size=(0, 4)), r'patch_size .* got \(0, 4\)'),
    (PatchEmbedding(channels=0), 'channels must be at least 1, got 0'),
    (Conv1x1Embedding(channels=0), 'channels must be at least 1, got 0'),
    (ConvEmbedding(channels=-1), 'channels must be at least 1, got -1'),
    (ImageInput(image_channels=0), 'image_channels must be at least 1, got 0'),
    (ImageInput(permutation_seed=-1), 'seed must be at least 0, got -1'),
    (
      ImageInput(position_projection=0),
      'position_projection must be at least 1, got 0',
    ),
    (
      ImageInput(positions=FourierPositions(max_resolution=())),
      r'max_resolution must have 2 numbers, one for each axis, got \(\)',
    ),
    (
      FourierPositions(max_resolution=(-1, 0)),
      r'max_resolution must be at least 1, got \(-1.0, 0.0\)',
    ),
    (FourierPositions(num_bands=0), 'num_bands must be at least 1, got 0'),
    (LearnedPositions(grid=(0, 4)), r'grid must be .* 1, got \(0, 4\)'),
    (LearnedPositions(num_channels=0), 'num_channels must be at least 1'),
    (LearnedPositions(init_scale=-1.0), 'init_scale must be at least 0'),
    (VideoInput(video_channels=0), 'video_channels must be at least 1'),
    (VideoInput(patch_size=(2, 0, 8)), r'at least 1, got \(2, 0, 8\)'),
    (VideoInput(embedding_channels=0), 'embedding_channels must be at least 1'),
    (VideoOutput(size=(1, 1, 1), video_channels=0), 'video_channels must be'),
    (AudioInput(audio_channels=0), 'audio_channels must be at least 1'),
    (SpectrogramInput(patch_size=(1, 0)), r'patch_size must .* \(1, 0\)'),
    (AudioOutput(num_samples=16, audio_channels=0), 'audio_channels must be'),
    (FlowInput(frame_channels=0), 'frame_channels must be at least 1'),
    (FlowInput(embedding_channels=0), 'embedding_channels must be at least 1'),
    (LabelInput(num_classes=0), 'num_classes must be at least 1, got 0'),
    (LabelOutput(query_init_scale=-1.0), 'query_init_scale must be at least 0'),
    (TextInput(position_init_scale=-1.0), 'position_init_scale must be at le'),
    (TextOutput(query_init_scale=-1.0), 'query_init_scale must be at least 0'),
    (
      MultimodalOutput(modalities={'a': LabelOutput()}, projected_channels=0),
      'projected_channels must be at least 1, got 0',
    ),
    (
      MultimodalOutput(
        modalities={'a': MultimodalOutput(modalities={'b': LabelOutput()})}
      ),
      "modalities must be single ones, got 'a', a MultimodalOutput",
    ),
    (AttentionDecoder(query_channels=0), 'query_channels must be at least 1'),
    (_config(latent_init_scale=-1.0), 'latent_init_scale must be at least 0'),
    (_config(latent_init_scale=math.nan), 'must be at least 0, got nan'),
    (_config(latent_init_scale=math.inf), 'must be finite, got inf'),
  ],
)
def test_sizes_and_scales_out_of_range_are_refused(config, message):
  with pytest.raises(ValueError, match=message):
    config.validate()


@pytest.mark.parametrize(
  'shape',
  [(2, 8, 8), (2, 8, 8, 4), (8, 8, 3), (2, 1, 8, 8, 3), (2, 0, 8, 3)],
)
def test_images_of_a_wrong_shape_are_refused(shape):
  with pytest.raises(ValueError, match=r'must have shape \[B, Y, X, 3\]'):
    _apply(_config(), np.zeros(shape, np.float32))


def test_images_of_integers_are_refused():
  with pytest.raises(TypeError, match='floating point.*got uint8'):
    _apply(_config(), np.zeros((2, 8, 8, 3), np.uint8))


@pytest.mark.parametrize(
  ('axes', 'num_bands'), [((2, 2**24), 5), ((1,), 2**27)]
)
def test_positions_that_would_fill_the_memory_are_refused(axes, num_bands):
  positions = FourierPositions(num_bands=num_bands)
  with pytest.raises(ValueError, match='must be at most 67,108,864, got'):
    positions(axes)


def test_patches_must_divide_the_image():
  inputs = ImageInput(embedding=PatchEmbedding(patch_size=(3, 4)))
  with pytest.raises(ValueError, match=r'divide the axes \(8, 8\), got \(3, 4'):
    _apply(_config(inputs=inputs))


def test_image_must_not_be_smaller_than_a_patch():
  inputs = ImageInput(embedding=PatchEmbedding(patch_size=(4, 4)))
  images = np.zeros((2, 2, 8, 3), np.float32)
  with pytest.raises(ValueError, match=r'divide the axes \(2, 8\), got \(4, 4'):
    _apply(_config(inputs=inputs), images)


def test_learned_positions_must_have_the_grid_of_the_image():
  inputs = ImageInput(positions=LearnedPositions(grid=(7, 8)))
  with pytest.raises(ValueError, match=r'must be \(7, 8\).*got \(8, 8\)'):
    _apply(_config(inputs=inputs))


def test_masks_of_a_wrong_shape_are_refused():
  with pytest.raises(ValueError, match=r'must have .*\[2, 64\], got \[2, 63\]'):
    _apply(_config(), input_mask=np.ones((2, 63), bool))


@pytest.mark.parametrize(
  ('name', 'num_elements'), [('input_mask', 64), ('query_mask', 1)]
)
def test_masks_to_add_to_logits_are_refused(name, num_elements):
  config = _config(decoder=AttentionDecoder(query_channels=4))
  mask = np.zeros((2, num_elements), np.float32)
  with pytest.raises(TypeError, match=f'{name} must be boolean, got float32'):
    _apply(config, **{name: mask})


def test_what_encode_did_not_return_is_refused_by_process():
  perceiver = perceiver_jax.build(_config())
  params = jax.eval_shape(perceiver.init, RNG, IMAGES)
  latents = np.zeros((2, 4, 8), np.float32)
  with pytest.raises(TypeError, match=r'must be what encode\(\) .*ndarray'):
    jax.eval_shape(lambda p: perceiver.process(p, None, latents), params)


@pytest.mark.parametrize('shape', [(2, 4, 9), (4, 8)])
def test_latents_of_another_model_are_refused(shape):
  perceiver = perceiver_jax.build(_config())
  params = jax.eval_shape(perceiver.init, RNG, IMAGES)
  latents = np.zeros(shape, np.float32)
  with pytest.raises(ValueError, match=r'must have shape \[B, N, 8\], got \['):
    jax.eval_shape(lambda p: perceiver.decode(p, None, latents), params)


def test_training_without_an_rng_is_refused():
  with pytest.raises(ValueError, match='rng must be a key if is_training'):
    _apply(_config(), is_training=True)


@pytest.mark.parametrize(
  ('name', 'subject'),
  [('query_mask', 'LabelOutput'), ('input_mask', 'ImageInput')],
)
def test_dict_of_masks_is_refused_for_a_single_modality(name, subject):
  config = _config(decoder=AttentionDecoder(query_channels=4))
  message = f'{name} must be one array for {subject}, got a dict'
  with pytest.raises(ValueError, match=message):
    _apply(config, **{name: {'image': np.ones((2, 1), bool)}})


def test_queries_are_refused_where_none_are_asked():
  with pytest.raises(ValueError, match='must be None with an AverageDecoder'):
    _apply(_config(), query_mask=np.ones((2, 1), bool))
