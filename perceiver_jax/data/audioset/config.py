"""AudioSet as in the papers: clips of 1.28 s, of sound, pictures or both.

Source: arXiv 2103.03206, section 4.2 and appendix C, and arXiv 2107.14795,
appendix C. Spectrograms and their augmentation follow on the devices, and so
does leaving out the video of some examples: `SpectrogramInput.spec_augment`,
`MultimodalInput.drop_probs`.
"""

import dataclasses
from typing import Any, SupportsIndex

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int, UInt8

from perceiver_jax.data import crop, records
from perceiver_jax.data.audioset import sampling
from perceiver_jax.data.audioset.contents import Contents, contents_of
from perceiver_jax.data.base import DataConfig, UnreadableError
from perceiver_jax.data.colour import ColourJitter
from perceiver_jax.data.imagenet import decode_image
from perceiver_jax.data.resize import resize_bytes

# What stands for a video that is not there: about 0 when normalised.
_GREY = 128
_COMMAND = 'python -m perceiver_jax.data.audioset prepare --manual_dir=DIR'


class AudioSetData(DataConfig):
  """Clips of sound and video with labels, many of which an example can have.

  Examples are, with K clips: `{'audio': int16 [K, S, 1], 'video': uint8
  [K, T, Y, X, 3], 'labels': uint8 [V]}`, or one of 'audio' and 'video'. Both
  are of the same time. In training K is 1, a clip from anywhere; in evaluation
  the clips lie evenly over the whole example.

  An example is used if it has sound or pictures, whichever is asked for; of
  both, one is enough. What it lacks is silence, or grey in all frames, much as
  if a video is dropped in training. Where sound and pictures differ in length,
  clips are of the time that has both. One that is shorter than a clip ends with
  silence, and with its last frame.

  Attributes:
    name: as TFDS spells it; the data set must be prepared, with features as
      those of `audioset`.
    use_audio: whether examples have 'audio'.
    use_video: whether examples have 'video'.
    sample_rate_hz: of the sound, which the data must have.
    frame_rate_hz: of the pictures, which the data must have.
    clip_frames: length of a clip in frames, T.
    num_eval_clips: clips of an example in evaluation, K.
    frame_size: rows and columns of what the model sees.
    crop_area: of the random crop, least and most, as shares of a frame; one
      crop for all frames of a clip. Where there is none, as in evaluation.
    crop_ratio: width over height of the random crop, least and most.
    flip_prob: of the mirror image, of the whole clip.
    colour_jitter: how colours are changed; None: not at all.
    eval_crop_fraction: side of the centre crop over a frame's shorter side.
    balance_classes: whether in training all classes come equally often, as far
      as examples with several allow, instead of all examples.
  """

  train_split: str = 'balanced_train+unbalanced_train'
  eval_split: str = 'eval'
  num_threads: int = 8
  name: str = 'audioset'
  use_audio: bool = True
  use_video: bool = True
  sample_rate_hz: int = 48_000
  frame_rate_hz: int = 25
  clip_frames: int = 32
  num_eval_clips: int = 16
  frame_size: tuple[int, int] = (224, 224)
  crop_area: tuple[float, float] = (0.08, 1.0)
  crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
  flip_prob: float = 0.5
  colour_jitter: ColourJitter | None = dataclasses.field(
    default_factory=ColourJitter
  )
  eval_crop_fraction: float = 224 / 256
  balance_classes: bool = False

  def validate(self) -> None:
    super().validate()
    self._validate_at_least(
      1,
      'sample_rate_hz',
      'frame_rate_hz',
      'clip_frames',
      'num_eval_clips',
      'frame_size',
    )
    if not (self.use_audio or self.use_video):
      raise ValueError('use_audio or use_video must be True, got neither.')
    if self.sample_rate_hz % self.frame_rate_hz:
      raise ValueError(
        'sample_rate_hz must be a multiple of frame_rate_hz '
        f'{self.frame_rate_hz}, got {self.sample_rate_hz}.'
      )
    crop.validate(self.crop_area, self.crop_ratio, self.eval_crop_fraction)
    if not 0 <= self.flip_prob <= 1:
      raise ValueError(f'flip_prob must be in [0, 1], got {self.flip_prob}.')

  def builder(self) -> tfds.core.DatasetBuilder:
    """Returns the TFDS builder of the data set, prepared."""
    return records.prepared_builder(self.name, self.data_dir, _COMMAND)

  @property
  def class_names(self) -> tuple[str, ...]:
    return tuple(self.builder().info.features['labels'].feature.names)

  def make_source(self, split: str) -> 'Clips':
    builder = self.builder()
    used = self._used(contents_of(builder, split))
    num_classes = builder.info.features['labels'].feature.num_classes
    return Clips(records.Records(builder, split), used, num_classes)

  def train_weights(self) -> np.ndarray | None:
    if not self.balance_classes:
      return None
    contents = contents_of(self.builder(), self.train_split)
    return contents.of(self._used(contents)).class_balance()

  def _used(self, contents: Contents) -> np.ndarray:
    """Returns which examples have something of what is asked for."""
    has_any = np.zeros(len(contents.has_audio), bool)
    if self.use_audio:
      has_any |= contents.has_audio
    if self.use_video:
      has_any |= contents.has_video
    return np.flatnonzero(has_any)

  def preprocess(
    self, example: dict[str, Any], rng: np.random.Generator | None
  ) -> dict[str, np.ndarray]:
    samples_per_frame = self.sample_rate_hz // self.frame_rate_hz
    self._check_rates(example)
    sound, frames = example['audio'], example['video']
    lengths = [len(sound) // samples_per_frame] if self.use_audio else []
    lengths += [len(frames)] if self.use_video else []
    length = min(filter(None, lengths), default=1)
    if rng is None:
      starts = sampling.even_starts(
        length, self.clip_frames, self.num_eval_clips
      )
    else:
      starts = sampling.random_starts(length, self.clip_frames, rng)
    arrays = {'labels': example['labels']}
    if self.use_audio:
      arrays['audio'] = sampling.sound_parts(
        sound, starts, self.clip_frames, samples_per_frame
      )
    if self.use_video:
      try:
        arrays['video'] = self._video(frames, starts, rng)
      except UnreadableError as error:
        name = f'{example["video_id"].decode()} at {example["start"]} s'
        raise UnreadableError(f'{name}: {error}') from error
    return arrays

  def _check_rates(self, example: dict[str, Any]) -> None:
    for field, feature in (
      ('sample_rate_hz', 'sample_rate'),
      ('frame_rate_hz', 'fps'),
    ):
      if example[feature] != getattr(self, field):
        raise ValueError(
          f'{field} must be that of the data, {example[feature]}, got '
          f'{getattr(self, field)}.'
        )

  def _video(
    self,
    frames: np.ndarray,
    starts: Int[np.ndarray, ' K'],
    rng: np.random.Generator | None,
  ) -> UInt8[np.ndarray, 'K T Y X 3']:
    """Returns the pictures of clips.

    Args:
      frames: JPEG files of the whole example; there may be none.
      starts: first frames of the clips.
      rng: decides the augmentation; None for none.
    """
    if not len(frames):
      shape = (len(starts), self.clip_frames, *self.frame_size, 3)
      return np.full(shape, _GREY, np.uint8)
    numbers = sampling.frame_numbers(len(frames), starts, self.clip_frames)
    # Clips overlap in evaluation, and the last frame may come several times.
    needed, places = np.unique(numbers, return_inverse=True)
    height, width, _ = decode_image(frames[needed[0]]).shape
    window = None
    if rng is not None:
      window = crop.random_window(
        height, width, rng, area=self.crop_area, ratio=self.crop_ratio
      )
    window = window or crop.centre_window(
      height, width, self.eval_crop_fraction
    )
    video = np.stack(
      [
        resize_bytes(window.of(decode_image(frames[i])), *self.frame_size)
        for i in needed
      ]
    )
    if rng is not None:
      if rng.random() < self.flip_prob:
        video = video[:, :, ::-1]
      if self.colour_jitter is not None:
        video = self.colour_jitter(np.ascontiguousarray(video), rng)
    return video[places.reshape(numbers.shape)]


class Clips:
  """The records that are used, with labels as zeros and ones.

  Args:
    source: of all records.
    used: which of them, in order.
    num_classes: how many labels there are.
  """

  def __init__(
    self,
    source: records.Records,
    used: Int[np.ndarray, ' N'],
    num_classes: int,
  ):
    self._source = source
    self._used = used
    self._num_classes = num_classes

  def __len__(self) -> int:
    return len(self._used)

  def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
    example = self._source[self._used[index]]
    labels = np.zeros(self._num_classes, np.uint8)
    labels[example['labels']] = 1
    return example | {'labels': labels}
