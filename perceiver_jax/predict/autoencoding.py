"""Video and sound, compressed into latents and decoded again."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, UInt8

from perceiver_jax.arrays import Latents
from perceiver_jax.config import Config
from perceiver_jax.modalities.audio import AudioInput, AudioOutput
from perceiver_jax.modalities.grid import GridOutput
from perceiver_jax.modalities.label import LabelInput, LabelOutput
from perceiver_jax.modalities.video import VideoInput, VideoOutput
from perceiver_jax.predict.compiled import compiled
from perceiver_jax.predict.images import check_image
from perceiver_jax.progress import Progress
from perceiver_jax.weights.native import Pretrained

_LOUDEST = 2.0
"""Resampled sound of full scale goes somewhat above 1."""


class Reconstruction(NamedTuple):
  """What a model makes of its own latents.

  Attributes:
    video: the frames.
    audio: the samples.
    label_probs: of each clip, the probabilities of the classes.
  """

  video: UInt8[np.ndarray, 'T Y X C']
  audio: Float[np.ndarray, 'S c']
  label_probs: Float[np.ndarray, 'clips V']


class Clips(NamedTuple):
  """What an autoencoder takes at once, and what its modalities are called.

  Attributes:
    num_frames: of a clip.
    size: rows and columns of a frame.
    num_samples: of the sound of a clip.
    names: of the modalities, by the class of their output.
    num_classes: of the label.
  """

  num_frames: int
  size: tuple[int, int]
  num_samples: int
  names: dict[type[Config], str]
  num_classes: int


def autoencode(
  pretrained: Pretrained,
  video: np.ndarray,
  audio: np.ndarray,
  *,
  chunk_size: int = 8192,
  batch_size: int = 1,
) -> Reconstruction:
  """Compresses video and sound, and decodes them, clip by clip or several.

  The label of a clip is left open, and decoded too. Outputs are decoded in
  chunks of queries, so that memory does not grow with their number.

  Args:
    pretrained: an autoencoder of video, sound and label.
    video: uint8 [T, Y, X, C], of the size of the model's frames; whole clips.
    audio: floating point [S, c] in [-1, 1]: the samples of the same time.
    chunk_size: queries of a clip that are decoded at once.
    batch_size: clips that go through the model at once, at most; for another
      number of them it is compiled anew.

  Raises:
    ValueError: the model does something else, video and audio do not fit it or
      each other, or audio has another scale.
    TypeError: the video is not of bytes, or the audio not floating point.

  Source: the published notebook `video_autoencoding`.
  """
  if chunk_size < 1:
    raise ValueError(f'chunk_size must be at least 1, got {chunk_size}.')
  if batch_size < 1:
    raise ValueError(f'batch_size must be at least 1, got {batch_size}.')
  clips = clips_of(pretrained)
  video, audio = np.asarray(video), np.asarray(audio)
  count = _checked_count(clips, pretrained, video, audio)
  decoder = _Decoder(pretrained, chunk_size)
  frames = video.reshape(count, clips.num_frames, *video.shape[1:])
  sounds = audio.reshape(count, clips.num_samples, -1)
  batch_size = min(batch_size, count)
  starts = range(0, count, batch_size)
  parts = []
  with Progress(
    len(starts) * decoder.num_steps, batch_size * chunk_size, unit='queries'
  ) as progress:
    done = 0
    for start in starts:
      # The last batch is filled up with the last clip.
      batch = np.minimum(np.arange(start, start + batch_size), count - 1)
      outputs: dict[str, list[np.ndarray]] = {}
      for name, array in decoder.outputs(
        {
          clips.names[VideoOutput]: frames[batch].astype(np.float32) / 255.0,
          clips.names[AudioOutput]: sounds[batch].astype(np.float32),
          clips.names[LabelOutput]: np.zeros(
            (batch_size, clips.num_classes), np.float32
          ),
        }
      ):
        outputs.setdefault(name, []).append(array)
        done += 1
        progress.update(done)
      parts.append(
        {name: np.concatenate(arrays, 1) for name, arrays in outputs.items()}
      )
  return _reconstruction(clips, parts, video.shape, count)


class _Decoder:
  """Encodes clips, and decodes them in chunks of one size for a modality."""

  def __init__(self, pretrained: Pretrained, chunk_size: int):
    self._weights = pretrained.params, pretrained.state, None
    self._functions = compiled(pretrained.config)
    # Chunks of queries, by modality; the last one is filled up.
    self._chunks: dict[str, np.ndarray | None] = {}
    self._counts: dict[str, int] = {}
    for name, config in pretrained.config.outputs.modalities.items():
      self._chunks[name] = None
      if isinstance(config, GridOutput):
        total = math.prod(config.grid)
        size = min(chunk_size, total)
        indices = np.arange(-(-total // size) * size) % total
        self._chunks[name] = indices.reshape(-1, size)
        self._counts[name] = total

  @property
  def num_steps(self) -> int:
    return sum(1 if c is None else len(c) for c in self._chunks.values())

  def outputs(self, inputs: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Yields pairs of a modality and a part of its outputs, in order."""
    functions, weights = self._functions, self._weights
    encoded, _ = functions.encode(*weights, inputs)
    latents, _ = functions.process(*weights, encoded)
    for name, chunks in self._chunks.items():
      if chunks is None:
        yield name, self._decoded(latents, name, None)
        continue
      left = self._counts[name]
      for chunk in chunks:
        outputs = self._decoded(latents, name, chunk)
        # Audio gives several samples for a query.
        per_query = outputs.shape[1] // len(chunk)
        yield name, outputs[:, : left * per_query]
        left -= len(chunk)

  def _decoded(
    self, latents: Latents, name: str, chunk: np.ndarray | None
  ) -> np.ndarray:
    queries = {name: chunk}
    outputs, _ = self._functions.decode(*self._weights, latents, queries)
    return np.asarray(outputs[name])


def clips_of(pretrained: Pretrained) -> Clips:
  """Returns what an autoencoder takes at once.

  Raises:
    ValueError: the model is no autoencoder of video, sound and label.
  """
  config = pretrained.config
  sides = [
    getattr(side, 'modalities', {}) for side in (config.inputs, config.outputs)
  ]
  pairs = [
    (VideoInput, VideoOutput),
    (AudioInput, AudioOutput),
    (LabelInput, LabelOutput),
  ]
  names = {
    output_type: name
    for name in sides[1]
    for input_type, output_type in pairs
    if isinstance(sides[0].get(name), input_type)
    and isinstance(sides[1][name], output_type)
  }
  if not len(names) == len(sides[0]) == len(sides[1]) == len(pairs):
    kinds = [
      {name: type(part).__name__ for name, part in side.items()}
      for side in sides
    ]
    raise ValueError(
      'the model must have video, audio and a label, under the same names, as '
      f'inputs and outputs, got {kinds[0]} and {kinds[1]}.'
    )
  outputs = {kind: sides[1][name] for kind, name in names.items()}
  num_frames, *size = outputs[VideoOutput].size
  return Clips(
    num_frames,
    tuple(size),
    outputs[AudioOutput].num_samples,
    names,
    outputs[LabelOutput].num_classes,
  )


def _checked_count(
  clips: Clips, pretrained: Pretrained, video: np.ndarray, audio: np.ndarray
) -> int:
  """Returns the number of clips."""
  inputs = pretrained.config.inputs.modalities
  channels = inputs[clips.names[VideoOutput]].video_channels
  shape = [*clips.size, channels]
  if video.ndim != 4 or list(video.shape[1:]) != shape:
    raise ValueError(
      f'video must have shape [T, {", ".join(map(str, shape))}], '
      f'got {list(video.shape)}.'
    )
  count, rest = divmod(len(video), clips.num_frames)
  if rest or not count:
    raise ValueError(
      f'video must have a positive multiple of {clips.num_frames} frames, '
      f'those of a clip, got {len(video)}.'
    )
  check_image('a frame of video', video[0], channels)
  channels = inputs[clips.names[AudioOutput]].audio_channels
  if audio.shape != (count * clips.num_samples, channels):
    raise ValueError(
      f'audio must have shape {[count * clips.num_samples, channels]}, '
      f'{clips.num_samples} samples for each {clips.num_frames} frames, got '
      f'{list(audio.shape)}; resample or cut it.'
    )
  if not np.issubdtype(audio.dtype, np.floating):
    raise TypeError(
      f'audio must be floating point, in [-1, 1], got {audio.dtype}.'
    )
  loudest = np.abs(audio).max()
  if not loudest <= _LOUDEST:  # Nor is NaN.
    raise ValueError(
      f'audio must be in [-1, 1], or little above, got {loudest}; divide '
      'samples of 16 bits by 32768.'
    )
  return count


def _reconstruction(
  clips: Clips,
  parts: list[dict[str, np.ndarray]],
  shape: tuple[int, ...],
  count: int,
) -> Reconstruction:
  def joined(kind: type[Config]) -> np.ndarray:
    return np.concatenate([part[clips.names[kind]] for part in parts])[:count]

  pixels = np.clip(joined(VideoOutput).reshape(shape), 0.0, 1.0)
  return Reconstruction(
    np.round(pixels * 255.0).astype(np.uint8),
    np.concatenate(joined(AudioOutput)),
    np.asarray(jax.nn.softmax(joined(LabelOutput))),
  )
