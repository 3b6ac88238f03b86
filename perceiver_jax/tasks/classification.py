"""Classification: softmax cross-entropy, top-1 and top-5 accuracy."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from perceiver_jax.arrays import AnyArray, Rng
from perceiver_jax.build import build_with_state
from perceiver_jax.modalities.image import ImageInput
from perceiver_jax.modalities.label import LabelOutput
from perceiver_jax.model import PerceiverConfig
from perceiver_jax.tasks.base import Batch, Metrics, Outcomes, Task, TaskConfig
from perceiver_jax.tasks.inputs import IMAGE, model_inputs, validate_arrays
from perceiver_jax.tasks.mixing import Mixing
from perceiver_jax.tasks.report import ClassReport

LABEL = 'label'


class ClassificationTask(TaskConfig):
  """Predicts the label of an image, a sound, a video, or several of them.

  A batch holds 'label': classes `[B]`, or soft labels `[B, V]` whose rows sum
  to 1; and what the model takes, such as 'image' `[B, Y, X, C]`. Colours are in
  0..255, 8-bit integers or floats, samples of sounds 16-bit integers or floats
  in [-1, 1]; they are normalised here, on the device.

  Attributes:
    label_smoothing: share of the label's mass spread evenly over all classes
      in training; the loss of an evaluation is that of the label itself.
    mixing: MixUp and CutMix of images in training; None for neither.
    image_mean: mean of each colour, or one for all, of pixels over 255.
    image_std: standard deviation of each colour, or one for all.
  """

  label_smoothing: float = 0.0
  mixing: Mixing | None = None
  image_mean: tuple[float, ...] = (0.5,)
  image_std: tuple[float, ...] = (0.5,)

  def validate(self) -> None:
    super().validate()
    if not 0.0 <= self.label_smoothing < 1.0:
      raise ValueError(
        f'label_smoothing must be in [0, 1), got {self.label_smoothing}.'
      )
    if not self.image_std or min(self.image_std) <= 0.0:
      raise ValueError(f'image_std must be positive, got {self.image_std}.')

  def validate_model(self, model: PerceiverConfig) -> None:
    if not isinstance(model.outputs, LabelOutput):
      raise ValueError(
        'the outputs of a model for classification must be a LabelOutput, got '
        f'{type(model.outputs).__name__}.'
      )
    if self.mixing is not None and not isinstance(model.inputs, ImageInput):
      raise ValueError(
        'mixing must be None for a model of anything but images, got '
        f'{type(self.mixing).__name__} and {type(model.inputs).__name__}.'
      )

  def validate_spec(
    self, spec: Mapping[str, Any], model: PerceiverConfig
  ) -> None:
    if LABEL not in spec:
      raise ValueError(
        f'a batch for classification must have {LABEL!r}, got {sorted(spec)}.'
      )
    colours = {'image_mean': self.image_mean, 'image_std': self.image_std}
    validate_arrays(spec, model.inputs, colours)
    self._validate_label(spec[LABEL], model.outputs.num_classes)

  def _validate_label(self, label: Any, num_classes: int) -> None:
    kinds = {(): np.integer, (num_classes,): np.floating}
    kind = kinds.get(tuple(label.shape))
    if kind is None or not np.issubdtype(label.dtype, kind):
      raise ValueError(
        f'a label must be one class or a distribution over the {num_classes} '
        f'of the model, got {label.dtype} of shape {label.shape}.'
      )
    if (getattr(label, 'num_values', None) or 0) > num_classes:
      raise ValueError(
        f'num_classes of the model must be at least {label.num_values}, the '
        f'classes of the data, got {num_classes}.'
      )

  def validate_batch(
    self, batch: Mapping[str, np.ndarray], model: PerceiverConfig
  ) -> None:
    labels = batch[LABEL]
    if 'mask' in batch:  # Zeros stand for no example.
      labels = labels[batch['mask']]
    num_classes = model.outputs.num_classes
    if np.issubdtype(labels.dtype, np.integer):
      wrong = labels[(labels < 0) | (labels >= num_classes)]
      rule = f'be in [0, {num_classes}), the classes of the model'
    else:
      mass = labels.sum(axis=-1)
      is_right = (np.abs(mass - 1.0) <= 1e-3) & (labels >= 0).all(axis=-1)
      wrong = labels[~is_right]
      rule = 'be distributions, not negative, with sum 1'
    if len(wrong):
      raise ValueError(f'labels must {rule}, got {wrong[0]}.')

  def make_report(self, class_names: Sequence[str]) -> ClassReport:
    return ClassReport(class_names)

  def make(self, model: PerceiverConfig) -> Task:
    self.validate_model(model)
    perceiver = build_with_state(model)

    def inputs(batch):
      return model_inputs(
        batch,
        model.inputs,
        colour_mean=self.image_mean,
        colour_std=self.image_std,
      )

    def init(rng, batch):
      return perceiver.init(rng, inputs(batch))

    def augment(rng, positions, batch):
      return self._mixed(rng, positions, batch, model.outputs.num_classes)

    def loss(params, state, rngs, batch):
      logits, state = perceiver.apply(
        params, state, rngs, inputs(batch), is_training=True
      )
      labels = _distributions(batch[LABEL], model.outputs.num_classes)
      metrics, _ = _evaluated(logits, labels)
      smooth = optax.smooth_labels(labels, self.label_smoothing)
      metrics['loss'] = optax.softmax_cross_entropy(logits, smooth)
      return metrics['loss'].mean(), (state, metrics)

    def metrics(params, state, batch):
      logits, _ = perceiver.apply(params, state, None, inputs(batch))
      labels = _distributions(batch[LABEL], model.outputs.num_classes)
      return _evaluated(logits, labels)

    return Task(inputs, init, augment, loss, metrics)

  def _mixed(
    self, rng: Rng, positions: Int[Array, ' B'], batch: Batch, num_classes: int
  ) -> Batch:
    if self.mixing is None:
      return batch
    labels = _distributions(batch[LABEL], num_classes)
    images = jnp.asarray(batch[IMAGE], jnp.float32)
    images, labels = self.mixing.mix(rng, positions, images, labels)
    return {**batch, IMAGE: images, LABEL: labels}


def _evaluated(
  logits: Float[Array, 'B V'], labels: Float[AnyArray, 'B V']
) -> tuple[Metrics, Outcomes]:
  metrics = {'loss': optax.softmax_cross_entropy(logits, labels)}
  # The class of a mixed label is the one with the most mass.
  classes = jnp.argmax(labels, axis=-1)
  ranks = _ranks(logits, classes)
  for k in (1, 5):
    if k < logits.shape[-1]:
      metrics[f'top_{k}_accuracy'] = (ranks < k).astype(jnp.float32)
  probabilities = jax.nn.softmax(logits, axis=-1)
  return metrics, {
    'label': classes,
    'rank': ranks,
    'predicted': jnp.argmax(logits, axis=-1),
    'probability': probabilities.max(axis=-1),
  }


def _distributions(
  labels: AnyArray, num_classes: int
) -> Float[AnyArray, 'B V']:
  """Makes classes distributions over all classes."""
  return jax.nn.one_hot(labels, num_classes) if labels.ndim == 1 else labels


def _ranks(
  logits: Float[Array, 'B V'], classes: Int[Array, 'B']
) -> Float[Array, 'B']:
  """Counts the classes that come before the right one.

  Of equals the first does, as for `argmax`, so that rank 0 is what the model
  predicts. Every NaN comes before it, its own too.
  """
  right = jnp.take_along_axis(logits, classes[:, None], axis=-1)
  is_later = jnp.arange(logits.shape[-1]) >= classes[:, None]
  is_behind = (logits < right) | ((logits == right) & is_later)
  return jnp.sum(~is_behind, axis=-1).astype(jnp.float32)
