"""Audio: patches of samples, log-mel spectrograms, and samples of outputs."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

import perceiver_jax
from perceiver_jax.modalities.audio import (
  AudioInput,
  AudioOutput,
  SpectrogramInput,
)
from perceiver_jax.modalities.grid import FourierPositions
from perceiver_jax.model import AttentionDecoder, PerceiverConfig

_SMALL = {
  'sample_rate_hz': 8000.0,
  'window_size': 256,
  'hop_size': 96,
  'num_mels': 12,
  'min_hz': 100.0,
  'max_hz': 3800.0,
}


def _tokens(config, audio):
  transformed = hk.transform(
    lambda audio: config.make('inputs')(audio, is_training=False)
  )
  return transformed.apply({}, None, audio)


def _audio(num_samples=960, channels=1, seed=0):
  rng = np.random.default_rng(seed)
  audio = rng.normal(size=(2, num_samples, channels))
  return (0.1 * audio).astype(np.float32)


def test_token_holds_consecutive_samples_and_their_place():
  positions = FourierPositions(num_bands=2, max_resolution=(6,))
  audio = np.arange(12, dtype=np.float32).reshape(1, 12, 1)
  config = AudioInput(samples_per_patch=4, positions=positions)
  tokens = _tokens(config, audio)
  assert (tokens.num_tokens, tokens.num_channels) == (3, config.num_channels)
  angles = np.pi * np.array([1.0, 3.0]) * 1.0
  expected = [8, 9, 10, 11, 1, *np.sin(angles), *np.cos(angles)]
  np.testing.assert_allclose(tokens.dense()[0, 2], expected, atol=1e-6)


def _expected_log_mel(samples, config):
  """Computes the spectrogram of one channel with SciPy, in float64."""
  window, hop = config.window_size, config.hop_size
  samples = samples.astype(np.float64)
  padded = np.pad(samples, (window - hop) // 2)
  frequencies, _, spectrum = scipy.signal.stft(
    padded,
    config.sample_rate_hz,
    window='hann',
    nperseg=window,
    noverlap=window - hop,
    boundary=None,
    padded=False,
    scaling='spectrum',
  )
  power = np.abs(2.0 * spectrum) ** 2
  lowest, highest = (
    1127.010480 * np.log(1 + hz / 700) for hz in (config.min_hz, config.max_hz)
  )
  edges = np.linspace(lowest, highest, config.num_mels + 2)
  edges = 700 * np.expm1(edges / 1127.010480)
  mel = [
    np.interp(frequencies, edges[i : i + 3], [0, 1, 0]) @ power
    for i in range(config.num_mels)
  ]
  return np.log(np.array(mel).T + config.log_offset)


def test_spectrogram_is_that_of_scipy():
  config = SpectrogramInput(log_mean=-5.0, log_std=2.0, **_SMALL)
  config.validate()
  audio = _audio(channels=2)
  actual = jax.jit(config.spectrogram)(audio)
  assert actual.shape == (2, 10, 12, 2)
  for example in range(2):
    for channel in range(2):
      expected = _expected_log_mel(audio[example, :, channel], config)
      expected = (expected + 5.0) / 2.0
      np.testing.assert_allclose(
        actual[example, :, :, channel], expected, atol=1e-5
      )


def test_sine_of_amplitude_one_has_power_one_in_the_bin_of_its_frequency():
  config = SpectrogramInput(num_samples=8192)
  time = np.arange(8192) / 48_000
  audio = np.sin(2 * np.pi * 1000.0 * time).astype(np.float32)[None, :, None]
  log_mel = config.spectrogram(audio)[0, 4, :, 0]
  mels = 2595 * np.log10(1 + np.array([50.0, 14_000.0, 1000.0]) / 700)
  position = (mels[2] - mels[0]) / (mels[1] - mels[0]) * 81 - 1
  assert abs(np.argmax(log_mel) - position) < 1
  assert -0.7 < np.max(log_mel) < 0.7


def test_spectrogram_of_silence_has_a_finite_gradient():
  config = SpectrogramInput(**_SMALL)
  silence = jnp.zeros((1, 960, 1))
  assert np.allclose(config.spectrogram(silence), np.log(1e-6))
  grad = jax.jit(jax.grad(lambda audio: config.spectrogram(audio).sum()))
  assert np.all(np.isfinite(grad(silence)))
  assert np.any(grad(jnp.asarray(_audio())) != 0)


def test_tokens_of_a_spectrogram_are_patches_of_time_and_frequency():
  config = SpectrogramInput(
    patch_size=(2, 3), positions=FourierPositions(num_bands=3), **_SMALL
  )
  config.validate()
  tokens = _tokens(config, _audio())
  assert tokens.axes == (5, 4)
  assert tokens.num_channels == config.num_channels == 6 + 2 * 7
  log_mel = config.spectrogram(_audio())[0, :, :, 0]
  np.testing.assert_allclose(
    tokens.dense()[0, 5, :6], log_mel[2:4, 3:6].reshape(-1), atol=1e-6
  )


def test_samples_of_patches_are_those_of_the_whole_audio():
  positions = FourierPositions(num_bands=3, max_resolution=(48,))
  config = PerceiverConfig(
    inputs=AudioInput(positions=positions),
    outputs=AudioOutput(num_samples=48, audio_channels=2, positions=positions),
    num_latents=4,
    latent_channels=8,
    num_blocks=1,
    num_self_attends_per_block=1,
    decoder=AttentionDecoder(query_channels=7),
  )
  perceiver = perceiver_jax.build(config)
  params = perceiver.init(jax.random.key(0), _audio(48))
  apply = jax.jit(perceiver.apply)
  whole = apply(params, None, _audio(48))
  assert whole.shape == (2, 48, 2)
  part = apply(params, None, _audio(48), np.array([2, 0]))
  expected = np.concatenate([whole[:, 32:], whole[:, :16]], axis=1)
  np.testing.assert_allclose(part, expected, atol=1e-5)


@pytest.mark.parametrize(
  ('config', 'shape', 'message'),
  [
    (AudioInput(), (2, 40, 1), 'a positive multiple of 16 samples.*got 40'),
    (AudioInput(), (2, 0, 1), 'a positive multiple of 16 samples.*got 0'),
    (AudioInput(num_samples=48), (2, 64, 1), 'must have 48 samples, got 64'),
    (AudioInput(), (2, 48, 2), r'shape \[B, S, 1\], got \[2, 48, 2\]'),
    (AudioInput(), (2, 48), r'shape \[B, S, 1\], got \[2, 48\]'),
    (SpectrogramInput(), (2, 1000, 1), 'multiple of 1024 samples.*got 1000'),
    (
      SpectrogramInput(num_samples=61_440),
      (1, 20_480, 1),
      'must have 61440 samples, got 20480; resample',
    ),
  ],
)
def test_audio_of_a_wrong_shape_is_refused(config, shape, message):
  with pytest.raises(ValueError, match=message):
    _tokens(config, np.zeros(shape, np.float32))


def test_audio_of_integers_is_refused():
  with pytest.raises(TypeError, match='audio must be floating point.*int16'):
    _tokens(AudioInput(), np.zeros((1, 16, 1), np.int16))


@pytest.mark.parametrize(
  ('config', 'message'),
  [
    (AudioInput(samples_per_patch=0), 'samples_per_patch must'),
    (AudioInput(num_samples=40), 'num_samples must be a positive multiple'),
    (AudioOutput(num_samples=40), 'num_samples must be a positive multiple'),
    (SpectrogramInput(num_samples=1500), 'num_samples must be a positive'),
    (SpectrogramInput(window_size=512), 'window_size must be at least'),
    (SpectrogramInput(max_hz=30_000.0), 'min_hz and max_hz must be in order'),
    (SpectrogramInput(min_hz=-1.0), 'min_hz and max_hz must be in order'),
    (SpectrogramInput(num_mels=0), 'num_mels must be a positive multiple'),
    (SpectrogramInput(patch_size=(1, 3)), 'num_mels must be a positive'),
    (SpectrogramInput(num_mels=800), 'every mel bin sees a frequency'),
    (SpectrogramInput(log_offset=0.0), 'log_offset and log_std must be pos'),
  ],
)
def test_config_that_fits_no_audio_is_refused(config, message):
  with pytest.raises(ValueError, match=message):
    config.validate()
