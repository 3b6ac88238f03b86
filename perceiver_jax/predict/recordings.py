"""Recordings of sound and video, and the clips of them that a model takes."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int16, UInt8

from perceiver_jax.data.audioset import sampling
from perceiver_jax.modalities.audio import AudioInput, SpectrogramInput
from perceiver_jax.modalities.base import InputConfig
from perceiver_jax.modalities.image import LearnedPositions
from perceiver_jax.modalities.video import VideoInput
from perceiver_jax.model import PerceiverConfig
from perceiver_jax.tasks.inputs import input_arrays

SAMPLE_RATE_HZ = 48_000
FRAME_RATE_HZ = 25
# As in `AudioSetData`: about 0 when normalised.
_GREY = 128


class Recording(NamedTuple):
  """A stretch of sound and video, which begin together.

  Attributes:
    sound: 16-bit samples; empty if there is no sound.
    frames: of the size of the model's; empty if there is no video.
  """

  sound: Int16[np.ndarray, ' S']
  frames: UInt8[np.ndarray, 'T Y X C']


class ClipFormat(NamedTuple):
  """What a model takes of a recording at a time.

  Attributes:
    audio: the name of the input of sound; None if the model has none.
    video: the name of the input of video; None if the model has none.
    sample_rate_hz: samples in a second.
    samples_per_frame: samples in the time of a frame; of a model without
      video, some number that divides those of a clip.
    num_frames: of a clip.
    size: rows, columns and colours of a frame; zeros without video.
  """

  audio: str | None
  video: str | None
  sample_rate_hz: int
  samples_per_frame: int
  num_frames: int
  size: tuple[int, int, int]

  @property
  def frame_secs(self) -> float:
    """How long a frame lasts."""
    return self.samples_per_frame / self.sample_rate_hz

  @property
  def secs(self) -> float:
    """How long a clip lasts."""
    return self.num_frames * self.frame_secs


class Clips(NamedTuple):
  """K clips of a recording, evenly over its whole.

  Attributes:
    arrays: what the model takes of each, as bytes and 16-bit samples.
    starts_secs: when each of them begins.
  """

  arrays: dict[str, np.ndarray]
  starts_secs: Float[np.ndarray, ' K']


def clip_format(
  config: PerceiverConfig,
  *,
  sample_rate_hz: int | None = None,
  frame_rate_hz: int = FRAME_RATE_HZ,
) -> ClipFormat:
  """Returns what a model takes of a recording at a time.

  Args:
    config: a model of sound, video, or both.
    sample_rate_hz: that it was trained with; None: that of its spectrogram, or
      48 kHz for one of raw audio.
    frame_rate_hz: that it was trained with.

  Raises:
    ValueError: the model takes something else, or does not say how much of it.
  """
  arrays = input_arrays(config.inputs)
  audio = _only(arrays, (AudioInput, SpectrogramInput), 'sound')
  video = _only(arrays, (VideoInput,), 'video')
  if len(arrays) > sum(name is not None for name in (audio, video)):
    kinds = {name: type(part).__name__ for name, part in arrays.items()}
    raise ValueError(
      'the inputs of a model that listens must be sound, video or both, got '
      f'{kinds}.'
    )
  sound = arrays.get(audio)
  if isinstance(sound, SpectrogramInput):
    own_rate_hz = round(sound.sample_rate_hz)
    if sample_rate_hz not in (None, own_rate_hz):
      raise ValueError(
        'sample_rate_hz must be that of the spectrogram of the model, '
        f'{own_rate_hz}, got {sample_rate_hz}.'
      )
    sample_rate_hz = own_rate_hz
  elif sample_rate_hz is None:
    sample_rate_hz = SAMPLE_RATE_HZ
  for name, rate_hz in (
    ('sample_rate_hz', sample_rate_hz),
    ('frame_rate_hz', frame_rate_hz),
  ):
    if rate_hz < 1:
      raise ValueError(f'{name} must be at least 1, got {rate_hz}.')
  if video is None:
    lengths = _lengths_of_sound(sound, sample_rate_hz, frame_rate_hz)
    size = (0, 0, 0)
  else:
    *lengths, size = _lengths_of_video(
      arrays[video], sound, sample_rate_hz, frame_rate_hz
    )
  return ClipFormat(audio, video, sample_rate_hz, *lengths, size)


def _only(
  arrays: Mapping[str, InputConfig],
  kinds: tuple[type[InputConfig], ...],
  subject: str,
) -> str | None:
  """Returns the name of the one input of some kinds, None if there is none."""
  names = [name for name, part in arrays.items() if isinstance(part, kinds)]
  if len(names) > 1:
    raise ValueError(f'the model must have one input of {subject}, got {names}')
  return names[0] if names else None


def _lengths_of_sound(
  sound: AudioInput | SpectrogramInput, sample_rate_hz: int, frame_rate_hz: int
) -> tuple[int, int]:
  """Returns samples of a frame, and frames of a clip, for sound alone."""
  if sound.num_samples is None:
    raise ValueError(
      'num_samples must be given for a model of sound alone, got None.'
    )
  step = math.gcd(sound.num_samples, round(sample_rate_hz / frame_rate_hz))
  return step, sound.num_samples // step


def _lengths_of_video(
  video: VideoInput,
  sound: AudioInput | SpectrogramInput | None,
  sample_rate_hz: int,
  frame_rate_hz: int,
) -> tuple[int, int, tuple[int, int, int]]:
  """Returns samples of a frame, frames of a clip, and the size of frames."""
  positions = video.positions
  if isinstance(positions, LearnedPositions):
    grid = positions.grid
  else:
    grid = positions and positions.max_resolution
  if not grid:
    raise ValueError(
      'positions must tell the size of the video that a model was made for, '
      f'got {positions}.'
    )
  num_frames, rows, columns = (
    round(count) * patch
    for count, patch in zip(grid, video.patch_size, strict=True)
  )
  samples_per_frame, rest = divmod(sample_rate_hz, frame_rate_hz)
  num_samples = samples_per_frame * num_frames
  if rest or (sound and sound.num_samples not in (None, num_samples)):
    raise ValueError(
      'sample_rate_hz must be such a multiple of frame_rate_hz that sound and '
      f'video of a clip last equally long, got {sample_rate_hz} and '
      f'{frame_rate_hz} Hz for {num_frames} frames'
      + (f' and {sound.num_samples} samples.' if sound else '.')
    )
  return samples_per_frame, num_frames, (rows, columns, video.video_channels)


def cut(recording: Recording, form: ClipFormat, num_clips: int) -> Clips:
  """Takes clips from a recording, evenly over its whole, as evaluations do.

  Where sound and video differ in length, they are of the time that has both.
  What the recording lacks is silence, or grey frames; what is shorter than a
  clip ends with silence, and with its last frame.

  Raises:
    ValueError: the recording has nothing that the model takes, or `num_clips`
      is less than 1.
  """
  if num_clips < 1:
    raise ValueError(f'num_clips must be at least 1, got {num_clips}.')
  sound, frames = recording
  lengths = [len(sound) // form.samples_per_frame] if form.audio else []
  lengths += [len(frames)] if form.video else []
  if not any(lengths):
    wanted = ' or '.join(
      kind
      for kind, name in (('sound', form.audio), ('video', form.video))
      if name
    )
    raise ValueError(f'the recording must have {wanted}, got none.')
  starts = sampling.even_starts(
    min(filter(None, lengths)), form.num_frames, num_clips
  )
  arrays = {}
  if form.audio:
    arrays[form.audio] = sampling.sound_parts(
      sound, starts, form.num_frames, form.samples_per_frame
    )
  if form.video:
    if not len(frames):
      frames = np.full((1, *form.size), _GREY, np.uint8)
    numbers = sampling.frame_numbers(len(frames), starts, form.num_frames)
    arrays[form.video] = frames[numbers]
  return Clips(arrays, starts * form.frame_secs)
