"""Log-mel spectrograms of raw audio, on device and differentiable."""

import jax.numpy as jnp
import numpy as np
from jax.lax import Precision
from jaxtyping import Array, Float


def log_mel_spectrogram(
  samples: Float[Array, 'B S'],
  *,
  sample_rate_hz: float,
  window_size: int,
  hop_size: int,
  num_mels: int,
  min_hz: float,
  max_hz: float,
  log_offset: float,
) -> Float[Array, 'B frames mels']:
  """Computes log(mel power + offset), in float32 whatever the samples are.

  One frame stands for each hop: frame i is a periodic Hann window around
  sample (i + 1/2) hop, and what it sees beyond the ends is zero. Power is
  scaled so that a sine of amplitude 1 has a power of about 1.

  Args:
    samples: audio in [-1, 1]; a multiple of `hop_size` of them.
    sample_rate_hz: samples in a second.
    window_size: samples of a window, at least `hop_size`.
    hop_size: samples from one frame to the next.
    num_mels: number of mel bins; see `mel_filters`.
    min_hz: lower end of the lowest bin.
    max_hz: upper end of the highest bin.
    log_offset: keeps the logarithm of silence finite.
  """
  samples = samples.astype(jnp.float32)
  num_frames = samples.shape[1] // hop_size
  before = (window_size - hop_size) // 2
  after = window_size - hop_size - before
  padded = jnp.pad(samples, ((0, 0), (before, after)))
  starts = hop_size * np.arange(num_frames)
  frames = padded[:, starts[:, None] + np.arange(window_size)]
  window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window_size) / window_size)
  window = (2.0 * window / window.sum()).astype(np.float32)
  spectrum = jnp.fft.rfft(frames * window)
  power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
  filters = mel_filters(
    window_size // 2 + 1, sample_rate_hz, num_mels, min_hz, max_hz
  ).astype(np.float32)
  mel = jnp.matmul(power, filters, precision=Precision.HIGHEST)
  return jnp.log(mel + log_offset)


def mel_filters(
  num_frequencies: int,
  sample_rate_hz: float,
  num_mels: int,
  min_hz: float,
  max_hz: float,
) -> Float[np.ndarray, 'frequencies mels']:
  """Returns triangular filters of height 1, equally spaced in mel; float64.

  The mel scale is that of HTK: 2595 log10(1 + f / 700 Hz).

  Args:
    num_frequencies: of a spectrum, from 0 to half the sample rate.
    sample_rate_hz: samples in a second.
    num_mels: number of filters. They overlap: each begins at the peak of the
      one before and ends at the peak of the one behind.
    min_hz: where the first filter begins.
    max_hz: where the last filter ends.

  Raises:
    ValueError: a filter lies between two frequencies of the spectrum and would
      never see anything.
  """
  frequencies = np.linspace(0.0, sample_rate_hz / 2, num_frequencies)
  mels = np.linspace(_mel(min_hz), _mel(max_hz), num_mels + 2)
  edges = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
  lower, peak, upper = edges[:-2], edges[1:-1], edges[2:]
  rising = (frequencies[:, None] - lower) / (peak - lower)
  falling = (upper - frequencies[:, None]) / (upper - peak)
  filters = np.maximum(np.minimum(rising, falling), 0.0)
  if not filters.any(axis=0).all():
    raise ValueError(
      'num_mels must be so few, or window_size so large, that every mel bin '
      f'sees a frequency; got {num_mels} bins from {min_hz} to {max_hz} Hz, '
      f'and frequencies {frequencies[1]} Hz apart.'
    )
  return filters


def _mel(hz: float) -> float:
  return 2595.0 * np.log10(1.0 + hz / 700.0)
