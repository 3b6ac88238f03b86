"""Tagging of sound and video: sigmoid cross-entropy, mean average precision."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, UInt8

from perceiver_jax.arrays import AnyArray, Rng
from perceiver_jax.build import build_with_state
from perceiver_jax.modalities.label import LabelOutput
from perceiver_jax.model import PerceiverConfig
from perceiver_jax.tasks.base import Batch, Task, TaskConfig
from perceiver_jax.tasks.inputs import (
  input_arrays,
  model_inputs,
  validate_arrays,
)
from perceiver_jax.tasks.ranking import ranking_metrics
from perceiver_jax.tasks.report import TagReport

LABELS = 'labels'


class TaggingTask(TaskConfig):
  """Predicts which of many classes an example has, each for itself.

  A batch holds K clips of each example, and 'labels' `[B, V]` of zeros and
  ones, uint8. The clips are what the model takes, such as 'audio'
  `[B, K, S, C]`, 16-bit samples, and 'video' `[B, K, T, Y, X, C]`, 8-bit
  colours; they become normalised floats here, on the device. In training every
  clip counts by itself. In evaluation the score of a class is the mean of its
  sigmoid over the clips, and mean average precision and the like rank all
  examples of the split by it.

  The loss is the mean over classes.

  Attributes:
    colour_mean: mean of each colour, or one for all, of pixels over 255.
    colour_std: standard deviation of each colour, or one for all.
  """

  colour_mean: tuple[float, ...] = (0.5,)
  colour_std: tuple[float, ...] = (0.5,)

  def validate(self) -> None:
    super().validate()
    if not self.colour_std or min(self.colour_std) <= 0.0:
      raise ValueError(f'colour_std must be positive, got {self.colour_std}.')

  def validate_model(self, model: PerceiverConfig) -> None:
    if not isinstance(model.outputs, LabelOutput):
      raise ValueError(
        'the outputs of a model for tagging must be a LabelOutput, got '
        f'{type(model.outputs).__name__}.'
      )
    input_arrays(model.inputs)

  def validate_spec(
    self, spec: Mapping[str, Any], model: PerceiverConfig
  ) -> None:
    streams = input_arrays(model.inputs)
    names = sorted({*streams, LABELS})
    if sorted(spec) != names:
      raise ValueError(
        f'a batch for this model must have exactly {names}, got {sorted(spec)}.'
      )
    clips = {
      name: jax.ShapeDtypeStruct(spec[name].shape[1:], spec[name].dtype)
      for name in streams
    }
    colours = {'colour_mean': self.colour_mean, 'colour_std': self.colour_std}
    validate_arrays(clips, model.inputs, colours)
    counts = {name: spec[name].shape[:1] for name in streams}
    if len(set(counts.values())) > 1:
      raise ValueError(
        f'the number of clips must be the same of all inputs, got {counts}.'
      )
    labels, num_classes = spec[LABELS], model.outputs.num_classes
    if labels.shape != (num_classes,) or labels.dtype != np.uint8:
      raise ValueError(
        f'labels must be uint8 of shape {(num_classes,)}, one for each class '
        f'of the model, got {labels.dtype} of shape {labels.shape}.'
      )

  def validate_batch(
    self, batch: Mapping[str, np.ndarray], model: PerceiverConfig
  ) -> None:
    largest = batch[LABELS].max()
    if largest > 1:
      raise ValueError(f'labels must be 0 or 1, got {largest}.')

  def make_report(self, class_names: Sequence[str]) -> TagReport:
    return TagReport(class_names)

  def make(self, model: PerceiverConfig) -> Task:
    self.validate_model(model)
    perceiver = build_with_state(model)
    streams = tuple(input_arrays(model.inputs))

    def of_clips(clips):
      return model_inputs(
        clips,
        model.inputs,
        colour_mean=self.colour_mean,
        colour_std=self.colour_std,
      )

    def inputs(batch):
      # To the model, every clip is an example.
      return of_clips(
        {n: batch[n].reshape(-1, *batch[n].shape[2:]) for n in streams}
      )

    def init(rng, batch):
      return perceiver.init(rng, inputs(batch))

    def loss(params, state, rngs, batch):
      num_clips = batch[streams[0]].shape[1]
      rngs = jax.vmap(lambda rng: jax.random.split(rng, num_clips))(rngs)
      logits, state = perceiver.apply(
        params, state, rngs.reshape(-1), inputs(batch), is_training=True
      )
      labels = jnp.repeat(batch[LABELS], num_clips, axis=0)
      losses = _losses(logits, labels).reshape(-1, num_clips).mean(axis=1)
      return losses.mean(), (state, {'loss': losses})

    def metrics(params, state, batch):
      # One clip of every example at a time: there are many.
      logits = jax.lax.map(
        lambda clips: perceiver.apply(params, state, None, of_clips(clips))[0],
        {name: jnp.moveaxis(batch[name], 1, 0) for name in streams},
      )
      losses = jax.vmap(_losses, (0, None))(logits, batch[LABELS])
      outcomes = {
        'scores': jax.nn.sigmoid(logits).mean(axis=0),
        LABELS: batch[LABELS] > 0,
      }
      return {'loss': losses.mean(axis=0)}, outcomes

    def split_metrics(outcomes):
      return ranking_metrics(outcomes['scores'], outcomes[LABELS])

    return Task(inputs, init, _unchanged, loss, metrics, split_metrics)


def _unchanged(rng: Rng, positions: Int[Array, ' B'], batch: Batch) -> Batch:
  del rng, positions  # What is random is in the data and in the model.
  return batch


def _losses(
  logits: Float[Array, 'B V'], labels: UInt8[AnyArray, 'B V']
) -> Float[Array, 'B']:
  return optax.sigmoid_binary_cross_entropy(logits, labels).mean(axis=-1)
