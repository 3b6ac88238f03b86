"""What a model gets of a batch: names, scales, and what does not suit."""

import numpy as np
import pytest

from perceiver_jax.data.base import ArraySpec
from perceiver_jax.modalities.audio import AudioInput, SpectrogramInput
from perceiver_jax.modalities.image import ImageInput
from perceiver_jax.modalities.label import LabelInput, LabelOutput
from perceiver_jax.modalities.multimodal import MultimodalInput
from perceiver_jax.modalities.points import PointsInput
from perceiver_jax.modalities.text import TextInput
from perceiver_jax.modalities.video import VideoInput
from perceiver_jax.model import AverageDecoder, PerceiverConfig
from perceiver_jax.nn.blocks import SelfAttendConfig
from perceiver_jax.tasks.classification import ClassificationTask
from perceiver_jax.tasks.mixing import Mixing

SPEC = {
  'image': ArraySpec((2, 2, 1), np.dtype(np.uint8)),
  'video': ArraySpec((2, 8, 8, 1), np.dtype(np.uint8)),
  'audio': ArraySpec((32, 1), np.dtype(np.int16)),
  'points': ArraySpec((5, 3), np.dtype(np.float32)),
  'label': ArraySpec((), np.dtype(np.int32)),
}
BOTH = MultimodalInput(
  modalities={'sound': AudioInput(), 'video': VideoInput(video_channels=1)}
)


def _model(inputs):
  return PerceiverConfig(
    inputs=inputs,
    outputs=LabelOutput(num_classes=3),
    num_latents=2,
    latent_channels=4,
    num_blocks=1,
    num_self_attends_per_block=1,
    self_attend=SelfAttendConfig(num_heads=1),
    decoder=AverageDecoder(),
  )


def _inputs(config, batch, **fields):
  return ClassificationTask(**fields).make(_model(config)).inputs(batch)


@pytest.mark.parametrize('config', [AudioInput(), SpectrogramInput()])
def test_samples_are_parts_of_full_scale(config):
  samples = np.array([[[-32768], [0], [16384]]], np.int16)
  actual = _inputs(config, {'audio': samples, 'video': None})
  np.testing.assert_array_equal(actual, [[[-1.0], [0.0], [0.5]]])
  # Floats are so already, and colours have no say in it.
  floats = np.array([[[-1.0], [0.25]]], np.float32)
  actual = _inputs(config, {'audio': floats}, image_mean=(7.0,))
  np.testing.assert_array_equal(actual, floats)


def test_points_are_taken_as_they_are():
  points = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
  actual = _inputs(PointsInput(), {'points': points}, image_std=(7.0,))
  np.testing.assert_array_equal(actual, points)


def test_modalities_are_taken_by_their_names_and_nothing_else_is():
  batch = {
    'sound': np.full((1, 32, 1), 8192, np.int16),
    'video': np.full((1, 2, 8, 8, 1), 51, np.uint8),
    'image': np.zeros((1, 2, 2, 1), np.uint8),
    'label': np.zeros((1,), np.int32),
  }
  actual = _inputs(BOTH, batch, image_mean=(0.1,), image_std=(0.2,))
  assert sorted(actual) == ['sound', 'video']
  np.testing.assert_array_equal(actual['sound'], np.full((1, 32, 1), 0.25))
  np.testing.assert_allclose(
    actual['video'], np.full((1, 2, 8, 8, 1), 0.5), rtol=1e-6
  )


@pytest.mark.parametrize(
  'config',
  [
    ImageInput(image_channels=1),
    VideoInput(video_channels=1),
    AudioInput(),
    SpectrogramInput(),
    PointsInput(),
  ],
)
def test_data_that_has_more_than_the_model_takes_suits(config):
  ClassificationTask().validate_spec(SPEC, _model(config))


@pytest.mark.parametrize(
  ('config', 'changes', 'message'),
  [
    (
      BOTH,
      {},
      r"what the model takes, \['sound', 'video'\], got \['audio', 'image'",
    ),
    (
      AudioInput(),
      {'audio': ArraySpec((32,), np.dtype(np.int16))},
      r"'audio' must have the axes \[S, C\], got \(32,\)",
    ),
    (
      AudioInput(),
      {'audio': ArraySpec((32, 1), np.dtype(np.uint8))},
      r"'audio' must be int16 or floats, got uint8",
    ),
    (
      PointsInput(),
      {'points': ArraySpec((5, 3), np.dtype(np.int32))},
      r"'points' must be floats, got int32",
    ),
    (
      TextInput(vocab_size=9, max_length=4),
      {},
      r'inputs of the model must be of .*PointsInput.* got TextInput',
    ),
    (
      MultimodalInput(modalities={'label': LabelInput(num_classes=3)}),
      {},
      r'inputs of the model must be of .* got LabelInput',
    ),
  ],
)
def test_data_that_does_not_suit_is_refused(config, changes, message):
  with pytest.raises(ValueError, match=message):
    ClassificationTask().validate_spec(SPEC | changes, _model(config))


def test_colours_of_a_video_must_each_have_their_number():
  task = ClassificationTask(image_std=(0.5, 0.5))
  with pytest.raises(ValueError, match=r"image_std .* 1 .* of 'video', got"):
    task.validate_spec(SPEC, _model(VideoInput(video_channels=1)))


def test_mixing_of_anything_but_images_is_refused():
  with pytest.raises(ValueError, match='mixing must be None .* PointsInput'):
    ClassificationTask(mixing=Mixing()).validate_model(_model(PointsInput()))
