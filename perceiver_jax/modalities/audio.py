"""Audio as inputs, raw or as a log-mel spectrogram, and as outputs."""

import math
from collections.abc import Sequence
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from perceiver_jax.arrays import AnyArray, Audio, ExampleRngs, Indices
from perceiver_jax.modalities.base import InputModality
from perceiver_jax.modalities.example_rngs import drawn
from perceiver_jax.modalities.grid import (
  GridInput,
  GridOutput,
  GridOutputModality,
)
from perceiver_jax.modalities.spec_augment import SpecAugment
from perceiver_jax.nn import resample
from perceiver_jax.nn.attention import Linear
from perceiver_jax.nn.spectrogram import log_mel_spectrogram, mel_filters
from perceiver_jax.nn.tokens import Tokens


class AudioInput(GridInput):
  """Raw audio [B, S, C], floating point, as inputs.

  Attributes:
    audio_channels: 1 for mono.
    samples_per_patch: samples of a patch, which is a token.
    num_samples: the only number S of samples that is accepted; None: any
      multiple of `samples_per_patch`. The coordinates of tokens run from -1 to
      1 over whatever there is.
  """

  audio_channels: int = 1
  samples_per_patch: int = 16
  num_samples: int | None = None

  content_name = 'samples'
  num_axes = 1

  @property
  def content_channels(self) -> int:
    return self.samples_per_patch * self.audio_channels

  def example(self) -> jax.ShapeDtypeStruct:
    num_samples = self.samples_per_patch * self.example_grid()[0]
    return _example(self.num_samples or num_samples, self.audio_channels)

  def validate(self) -> None:
    super().validate()
    self._validate_at_least(1, 'audio_channels')
    _validate_step(
      'samples_per_patch', self.samples_per_patch, self.num_samples
    )

  def make(self, name: str) -> 'AudioModality':
    return AudioModality(self, name=name)


class AudioModality(hk.Module):
  """Turns raw audio into tokens; see `AudioInput`."""

  def __init__(self, config: AudioInput, name: str | None = None):
    super().__init__(name)
    self._config = config

  def __call__(
    self,
    inputs: Audio,
    *,
    is_training: bool,
    rngs: ExampleRngs | None = None,
  ) -> Tokens:
    del is_training, rngs
    config = self._config
    samples = _checked(
      inputs,
      config.audio_channels,
      config.samples_per_patch,
      config.num_samples,
    )
    patches = resample.space_to_depth(samples, (config.samples_per_patch,))
    return config.place(patches)


class SpectrogramInput(GridInput):
  """Raw audio [B, S, C], floating point in [-1, 1], as log-mel spectrograms.

  The spectrogram is computed on device, in float32 at any precision of the
  model. There is a frame for each hop; see `nn.spectrogram`.

  Attributes:
    audio_channels: 1 for mono.
    sample_rate_hz: samples in a second.
    window_size: samples that a frame sees.
    hop_size: samples from one frame to the next.
    num_mels: number of mel bins.
    min_hz: lower end of the lowest mel bin.
    max_hz: upper end of the highest mel bin.
    log_offset: added to the power of a bin before the logarithm.
    log_mean: subtracted from the logarithm.
    log_std: what the difference is divided by.
    patch_size: frames and mel bins of a patch, which is a token.
    num_samples: the only number S of samples that is accepted; None: any
      multiple of a patch.
    spec_augment: what is hidden in training; None: nothing.
  """

  audio_channels: int = 1
  sample_rate_hz: float = 48_000.0
  window_size: int = 2048
  hop_size: int = 1024
  num_mels: int = 80
  min_hz: float = 50.0
  max_hz: float = 14_000.0
  log_offset: float = 1e-6
  log_mean: float = 0.0
  log_std: float = 1.0
  patch_size: tuple[int, int] = (1, 1)
  num_samples: int | None = None
  spec_augment: SpecAugment | None = None

  content_name = 'mel bins'
  num_axes = 2

  @property
  def content_channels(self) -> int:
    return math.prod(self.patch_size) * self.audio_channels

  @property
  def samples_per_patch(self) -> int:
    """Samples from one patch of frames to the next."""
    return self.hop_size * self.patch_size[0]

  def example(self) -> jax.ShapeDtypeStruct:
    num_samples = self.samples_per_patch * self.example_grid()[0]
    return _example(self.num_samples or num_samples, self.audio_channels)

  def validate(self) -> None:
    super().validate()
    self._validate_at_least(1, 'audio_channels', 'hop_size', 'patch_size')
    _validate_step('hop_size', self.samples_per_patch, self.num_samples)
    if self.window_size < self.hop_size:
      raise ValueError(
        f'window_size must be at least hop_size {self.hop_size}, '
        f'got {self.window_size}.'
      )
    if not 0.0 <= self.min_hz < self.max_hz <= self.sample_rate_hz / 2:
      raise ValueError(
        'min_hz and max_hz must be in order, from 0 to half of sample_rate_hz '
        f'{self.sample_rate_hz}, got {self.min_hz} and {self.max_hz}.'
      )
    if self.num_mels < 1 or self.num_mels % self.patch_size[1]:
      raise ValueError(
        'num_mels must be a positive multiple of the mel bins of a patch, '
        f'{self.patch_size[1]}, got {self.num_mels}.'
      )
    if self.log_offset <= 0.0 or self.log_std <= 0.0:
      raise ValueError(
        'log_offset and log_std must be positive, '
        f'got {self.log_offset} and {self.log_std}.'
      )
    mel_filters(
      self.window_size // 2 + 1,
      self.sample_rate_hz,
      self.num_mels,
      self.min_hz,
      self.max_hz,
    )

  def spectrogram(
    self, audio: Float[AnyArray, 'B S C']
  ) -> Float[Array, 'B frames mels C']:
    """Computes standardised log-mel spectrograms, one for each channel."""
    batch_size, num_samples, channels = audio.shape
    log_mel = log_mel_spectrogram(
      jnp.moveaxis(jnp.asarray(audio), 2, 1).reshape(-1, num_samples),
      sample_rate_hz=self.sample_rate_hz,
      window_size=self.window_size,
      hop_size=self.hop_size,
      num_mels=self.num_mels,
      min_hz=self.min_hz,
      max_hz=self.max_hz,
      log_offset=self.log_offset,
    )
    log_mel = log_mel.reshape(batch_size, channels, *log_mel.shape[1:])
    return (jnp.moveaxis(log_mel, 1, 3) - self.log_mean) / self.log_std

  def cast(self, inputs: Any, dtype: jnp.dtype) -> Any:
    del dtype
    return inputs

  def make(self, name: str) -> 'SpectrogramModality':
    return SpectrogramModality(self, name=name)


class SpectrogramModality(hk.Module):
  """Turns raw audio into tokens of a spectrogram; see `SpectrogramInput`."""

  def __init__(self, config: SpectrogramInput, name: str | None = None):
    super().__init__(name)
    self._config = config

  def __call__(
    self,
    inputs: Audio,
    *,
    is_training: bool,
    rngs: ExampleRngs | None = None,
  ) -> Tokens:
    config = self._config
    samples = _checked(
      inputs,
      config.audio_channels,
      config.samples_per_patch,
      config.num_samples,
    )
    content = config.spectrogram(samples)
    if is_training and config.spec_augment is not None:
      rngs = drawn(rngs, len(content))
      content = config.spec_augment.mask(rngs, content)
    return config.place(resample.space_to_depth(content, config.patch_size))


class AudioOutput(GridOutput):
  """Raw audio [B, S, C] as outputs, a patch a query.

  Raw queries are indices of patches; their samples stand one after the other.

  Attributes:
    num_samples: number S of samples.
    samples_per_patch: samples that one query gives.
    audio_channels: 1 for mono.
  """

  num_samples: int
  samples_per_patch: int = 16
  audio_channels: int = 1

  num_axes = 1

  @property
  def grid(self) -> tuple[int, ...]:
    return (self.num_samples // self.samples_per_patch,)

  def validate(self) -> None:
    _validate_step(
      'samples_per_patch', self.samples_per_patch, self.num_samples
    )
    super().validate()
    self._validate_at_least(1, 'audio_channels')

  def make(self, name: str, inputs: InputModality) -> 'AudioOutputModality':
    del inputs
    return AudioOutputModality(self, name=name)


class AudioOutputModality(GridOutputModality):
  """Makes queries for patches of audio, and samples; see `AudioOutput`."""

  @hk.name_like('__call__')
  def head(self, decoded: Float[Array, 'B O E']) -> Float[Array, 'B O SC']:
    config = self._config
    size = config.samples_per_patch * config.audio_channels
    return Linear(size, name='samples')(decoded)

  def arrange(
    self, made: Sequence[Float[Array, 'B O SC']], raw_queries: Indices | None
  ) -> Float[Array, 'B S C']:
    del raw_queries
    (patches,) = made
    return patches.reshape(len(patches), -1, self._config.audio_channels)


def _example(num_samples: int, channels: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct((1, num_samples, channels), jnp.float32)


def _validate_step(name: str, step: int, num_samples: int | None) -> None:
  if step < 1:
    raise ValueError(f'{name} must give patches of samples, got {step}.')
  if num_samples is not None and (num_samples < 1 or num_samples % step):
    raise ValueError(
      f'num_samples must be a positive multiple of {step} samples, those of a '
      f'patch, got {num_samples}.'
    )


def _checked(
  audio: Audio, channels: int, step: int, num_samples: int | None
) -> Array:
  """Returns the audio, if it has the right channels and length."""
  if audio.ndim != 3 or audio.shape[-1] != channels:
    raise ValueError(
      f'audio must have shape [B, S, {channels}], got {list(audio.shape)}.'
    )
  found = audio.shape[1]
  if num_samples is not None and found != num_samples:
    raise ValueError(
      f'audio must have {num_samples} samples, got {found}; resample or cut '
      'it, or set num_samples=None to accept any length.'
    )
  if found < 1 or found % step:
    raise ValueError(
      f'audio must have a positive multiple of {step} samples, those of a '
      f'patch, got {found}.'
    )
  if not jnp.issubdtype(audio.dtype, jnp.floating):
    raise TypeError(
      f'audio must be floating point, in [-1, 1], got {audio.dtype}.'
    )
  return jnp.asarray(audio)
