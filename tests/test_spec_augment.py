"""SpecAugment: what is hidden, how much of it, and only in training."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceiver_jax.modalities.audio import SpectrogramInput
from perceiver_jax.modalities.spec_augment import SpecAugment

SHAPE = (400, 20, 16, 2)
RNGS = jax.random.split(jax.random.key(0), SHAPE[0])


def _masked(**fields):
  """Returns spectrograms without and with masks."""
  plain = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
  return plain, np.asarray(SpecAugment(**fields).mask(RNGS, jnp.array(plain)))


def _hidden(**fields):
  """Returns what is hidden, having checked what is in its place."""
  plain, masked = _masked(**fields)
  hidden = (plain != masked).all(axis=-1)
  assert (hidden == (plain != masked).any(axis=-1)).all()
  means = np.broadcast_to(plain.mean(axis=(1, 2, 3), keepdims=True), SHAPE)
  np.testing.assert_allclose(masked[hidden], means[hidden], atol=1e-6)
  return hidden


def test_a_mask_over_time_hides_all_mels_of_neighbouring_frames():
  hidden = _hidden(num_time_masks=1, max_time_share=0.25, num_mel_masks=0)
  assert (hidden == hidden[:, :, :1]).all()
  frames = hidden[:, :, 0].astype(int)
  starts = np.diff(np.pad(frames, ((0, 0), (1, 1)))) == 1
  assert starts.sum(axis=1).max() == 1
  # From none to a quarter of 20 frames, each as often.
  widths = np.bincount(frames.sum(axis=1))
  assert len(widths) == 6
  assert widths.min() > 40
  # Anywhere, up to both ends.
  assert frames[:, 0].any() and frames[:, -1].any()


def test_a_mask_over_mels_hides_all_frames_of_neighbouring_bins():
  hidden = _hidden(num_time_masks=0, num_mel_masks=1, max_mel_share=0.5)
  assert (hidden == hidden[:, :1]).all()
  assert np.bincount(hidden[:, 0].sum(axis=1)).nonzero()[0].max() == 8


def test_several_masks_hide_more_and_examples_differ():
  one = _hidden(num_time_masks=1, num_mel_masks=0)
  three = _hidden(num_time_masks=3, num_mel_masks=0)
  assert 2 < three.mean() / one.mean() < 3
  assert len({example.tobytes() for example in _hidden()}) > 350


def test_no_masks_change_nothing():
  plain, masked = _masked(num_time_masks=0, num_mel_masks=0)
  np.testing.assert_array_equal(masked, plain)


def test_spectrograms_are_masked_in_training_only():
  config = SpectrogramInput(
    num_mels=8, positions=None, num_samples=8 * 1024, spec_augment=SpecAugment()
  )
  transformed = hk.transform(
    lambda audio, is_training: config.make('inputs')(
      audio, is_training=is_training
    )
  )
  audio = np.random.default_rng(0).normal(size=(4, 8 * 1024, 1))
  audio = 0.1 * audio.astype(np.float32)
  plain = config.spectrogram(audio)
  tokens = transformed.apply({}, None, audio, False)
  np.testing.assert_allclose(tokens.content, plain, rtol=1e-5)
  first, again, other = (
    transformed.apply({}, jax.random.key(seed), audio, True).content
    for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(first, again)
  assert (first != other).any()
  is_hidden = np.abs(first - plain) > 1e-3
  assert 0.1 < is_hidden.mean() < 0.9
  config.spec_augment = None
  tokens = transformed.apply({}, jax.random.key(0), audio, True)
  np.testing.assert_allclose(tokens.content, plain, rtol=1e-5)


@pytest.mark.parametrize(
  ('field', 'value'),
  [('num_time_masks', -1), ('max_time_share', 1.5), ('max_mel_share', -0.1)],
)
def test_masks_out_of_range_are_refused(field, value):
  config = SpectrogramInput(spec_augment=SpecAugment(**{field: value}))
  with pytest.raises(ValueError, match=rf'{field} must be .* got {value}'):
    config.validate()
