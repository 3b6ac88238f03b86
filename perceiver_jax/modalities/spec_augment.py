"""Masks over time and frequency of spectrograms, on device."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from perceiver_jax.arrays import ExampleRngs, Rng
from perceiver_jax.config import Config


class SpecAugment(Config):
  """Hides stretches of time and bands of frequency, of each example others.

  What is hidden becomes the mean of the spectrogram, and widths are uniform
  from nothing to the largest, as are places. There is no warp of time.

  Attributes:
    num_time_masks: stretches of time.
    max_time_share: of the frames that such a stretch hides at most.
    num_mel_masks: bands.
    max_mel_share: of the mel bins that such a band hides at most.

  Source: Park et al., arXiv 1904.08779; two masks each, a band of at most 27 of
  80 mel bins and a stretch of at most a fifth of the time are the parts of its
  policies LD and SM that make sense of 1.28 s. The Perceiver papers say no more
  than that they use it.
  """

  num_time_masks: int = 2
  max_time_share: float = 0.2
  num_mel_masks: int = 2
  max_mel_share: float = 27 / 80

  def validate(self) -> None:
    super().validate()
    self._validate_at_least(0, 'num_time_masks', 'num_mel_masks')
    for name in ('max_time_share', 'max_mel_share'):
      if not 0.0 <= getattr(self, name) <= 1.0:
        raise ValueError(f'{name} must be in [0, 1], got {getattr(self, name)}')

  def mask(
    self, rngs: ExampleRngs, spectrograms: Float[Array, 'B frames mels C']
  ) -> Float[Array, 'B frames mels C']:
    """Returns spectrograms of which parts are hidden, in all channels.

    Args:
      rngs: what is hidden of a spectrogram depends on its own key alone.
      spectrograms: of any range.
    """
    hidden = jax.vmap(self._hidden, (0, None))(rngs, spectrograms.shape[1:3])
    mean = spectrograms.mean(axis=(1, 2, 3), keepdims=True)
    return jnp.where(hidden[..., None], mean, spectrograms)

  def _hidden(
    self, rng: Rng, size: tuple[int, int]
  ) -> Bool[Array, 'frames mels']:
    """Draws what is hidden of one spectrogram."""
    time_rng, mel_rng = jax.random.split(rng)
    num_frames, num_mels = size
    times = _masked(
      time_rng, self.num_time_masks, num_frames, self.max_time_share
    )
    mels = _masked(mel_rng, self.num_mel_masks, num_mels, self.max_mel_share)
    return times[:, None] | mels


def _masked(
  rng: Rng, num_masks: int, length: int, max_share: float
) -> Bool[Array, ' length']:
  """Draws which of `length` places one of some masks hides."""
  width_rng, place_rng = jax.random.split(rng)
  largest = int(max_share * length)
  widths = jax.random.randint(width_rng, (num_masks, 1), 0, largest + 1)
  starts = jax.random.randint(place_rng, (num_masks, 1), 0, length - widths + 1)
  places = jnp.arange(length)
  is_hidden = (starts <= places) & (places < starts + widths)
  return is_hidden.any(axis=0)
