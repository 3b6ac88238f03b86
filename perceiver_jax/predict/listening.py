"""What is heard, and seen, in a recording of sound, video or both."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int16

from perceiver_jax.attention_maps import attention_maps
from perceiver_jax.config import from_json
from perceiver_jax.modalities.audio import SpectrogramInput
from perceiver_jax.modalities.label import LabelOutput
from perceiver_jax.model import PerceiverConfig
from perceiver_jax.predict.attention import check_latents, token_axes
from perceiver_jax.predict.classification import (
  Prediction,
  check_top_k,
  checked_names,
  top_predictions,
)
from perceiver_jax.predict.compiled import compiled, in_batches
from perceiver_jax.predict.images import Colours
from perceiver_jax.predict.recordings import ClipFormat, Clips
from perceiver_jax.tasks.inputs import input_arrays, model_inputs
from perceiver_jax.weights.native import Pretrained

Maps = list[dict[str, Float[np.ndarray, 'K *axes']]]
"""For each cross-attend, where it looks in the clips of each input."""

MINUS_ONE_TO_ONE = Colours((0.5,), (0.5,))
"""What the training of tags normalises pixels with, unless told otherwise."""
_WINDOW_SECS = 0.04


class Heard(NamedTuple):
  """What a model says of a recording.

  Attributes:
    predictions: the classes with the highest scores, highest first.
    clip_scores: of each clip, the scores of all classes.
  """

  predictions: list[Prediction]
  clip_scores: Float[np.ndarray, 'K V']


def listen(
  pretrained: Pretrained,
  clips: Clips,
  *,
  class_names: Sequence[str] | None = None,
  top_k: int = 5,
  is_exclusive: bool = False,
  colours: Colours = MINUS_ONE_TO_ONE,
  batch_size: int = 4,
) -> Heard:
  """Says what is in a recording: the mean over the scores of its clips.

  Args:
    pretrained: a model from sound, video or both to a label.
    clips: of the recording; see `cut`.
    class_names: the name of each class, in order; None: their numbers.
    top_k: how many classes to name.
    is_exclusive: whether the model was trained to choose one class, so that
      scores are of a softmax; else each class has a sigmoid of its own.
    colours: statistics to normalise pixels with.
    batch_size: clips that go through the model at once, at most.

  Raises:
    ValueError: the model does something else, or an argument is out of range.
  """
  config = pretrained.config
  if not isinstance(config.outputs, LabelOutput):
    raise ValueError(
      'the outputs of a model that listens must be a LabelOutput, got '
      f'{type(config.outputs).__name__}.'
    )
  check_top_k(top_k, config.outputs.num_classes)
  names = checked_names(class_names, config.outputs.num_classes)
  apply = compiled(config).apply
  activation = jax.nn.softmax if is_exclusive else jax.nn.sigmoid

  def scores_of(inputs):
    weights = pretrained.params, pretrained.state
    return activation(apply(*weights, None, inputs)[0])

  scores = _over_clips(config, clips, colours, batch_size, scores_of)
  return Heard(top_predictions(scores.mean(axis=0), names, top_k), scores)


def clip_attention(
  pretrained: Pretrained,
  clips: Clips,
  latents: Sequence[int] | None = None,
  *,
  colours: Colours = MINUS_ONE_TO_ONE,
  batch_size: int = 1,
) -> Maps:
  """Returns where latents look in clips, for each cross-attend.

  Args:
    pretrained: a model of sound, video or both.
    clips: of a recording; see `cut`.
    latents: the mean over which ones; None: all.
    colours: statistics to normalise pixels with.
    batch_size: clips that go through the model at once, at most.

  Returns:
    For each cross-attend the mean over heads and latents, by input, on the
    grids of tokens: of time and mel bins, say, or of time, rows and columns.
    The maps of a clip sum to 1 over all inputs.

  Raises:
    ValueError: it has no such latent, or its tokens stand on no grid.
  """
  config = pretrained.config
  latents = range(config.num_latents) if latents is None else latents
  check_latents(config, latents)
  maps = _compiled_maps(config.to_json())

  def weights_of(inputs):
    return maps(
      pretrained.params, pretrained.state, inputs, latents=tuple(latents)
    )

  weights = _over_clips(config, clips, colours, batch_size, weights_of)
  parts = {
    name: token_axes(part, clips.arrays[name].shape[1:])
    for name, part in sorted(input_arrays(config.inputs).items())
  }
  ends = np.cumsum([math.prod(grid) for grid in parts.values()])
  return [
    {
      name: flat.reshape(-1, *grid)
      for (name, grid), flat in zip(
        parts.items(), np.split(of_all, ends[:-1], axis=1), strict=True
      )
    }
    for of_all in np.moveaxis(weights, 1, 0)
  ]


def spectrogram(
  config: PerceiverConfig, form: ClipFormat, sound: Int16[np.ndarray, ' S']
) -> tuple[Float[np.ndarray, 'frames mels'], float]:
  """Returns the log-mel spectrogram of sound, to show, and the secs of a frame.

  It is the one that the model makes, if it does.

  Args:
    config: a model that takes sound.
    form: what it takes.
    sound: of any length.
  """
  part = input_arrays(config.inputs)[form.audio]
  if not isinstance(part, SpectrogramInput):
    window = 2 ** round(math.log2(_WINDOW_SECS * form.sample_rate_hz))
    part = SpectrogramInput(
      sample_rate_hz=form.sample_rate_hz,
      window_size=window,
      hop_size=window // 2,
      num_mels=64,
      max_hz=min(14_000.0, 0.475 * form.sample_rate_hz),
    )
  rest = -len(sound) % part.hop_size
  samples = np.pad(sound, (0, rest)).astype(np.float32) / 2**15
  log_mel = np.asarray(part.spectrogram(samples[None, :, None])[0, :, :, 0])
  return log_mel, part.hop_size / form.sample_rate_hz


def _over_clips(
  config: PerceiverConfig,
  clips: Clips,
  colours: Colours,
  batch_size: int,
  function: Callable[[Any], Any],
) -> np.ndarray:
  """Applies a function of a model's inputs to all clips."""

  def of_some(indices: np.ndarray) -> Any:
    batch = {name: array[indices] for name, array in clips.arrays.items()}
    return function(
      model_inputs(
        batch,
        config.inputs,
        colour_mean=colours.mean,
        colour_std=colours.std,
      )
    )

  count = len(clips.starts_secs)
  numbers = list(map(np.asarray, range(count)))
  return in_batches(of_some, numbers, min(batch_size, count), unit='clips')


@functools.lru_cache(maxsize=8)
def _compiled_maps(text: str) -> Callable[..., jax.Array]:
  """Returns the mean maps `[B, cross-attends, M]` of a model, jitted."""
  maps = attention_maps(from_json(text))

  def of_inputs(params, state, inputs, *, latents):
    # The maps of outputs, not returned, are not computed.
    found = maps(params, inputs, state=state, latents=latents).inputs
    return jnp.stack([weights.mean(axis=(1, 2)) for weights in found], axis=1)

  return jax.jit(of_inputs, static_argnames='latents')
