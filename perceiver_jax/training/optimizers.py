"""Optimizers: each is a config that makes an `optax.GradientTransformation`.

All of them clip the global gradient norm first and leave biases and the
parameters of norms out of the weight decay. A step of the chain that is
switched off is kept as one that does nothing, so that a checkpoint can be
continued with another `max_grad_norm` or `weight_decay`.
"""

import math
from typing import Any

import jax
import optax

from perceiver_jax.config import Config
from perceiver_jax.training.schedules import Schedule
from perceiver_jax.training.sharding import shared

_NEVER_DECAYED = frozenset({'b', 'scale', 'offset'})


def decay_mask(params: Any) -> Any:
  """Returns the tree of `params` with True where weight decay applies.

  A parameter is left out by its name: `b` is a bias, `scale` and `offset`
  belong to a layer or batch norm. Everything else decays, learned positions,
  latents and queries included.

  Source: the published training script (deepmind-research/perceiver).

  Args:
    params: Haiku parameters, `{module path: {name: array}}`.
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, _: path[-1].key not in _NEVER_DECAYED, params
  )


class Optimizer(Config):
  """What turns gradients into updates of the parameters.

  Attributes:
    schedule: the learning rate.
    weight_decay: how strongly parameters are pulled to 0; see the subclass for
      its unit and `decay_mask` for the parameters.
    max_grad_norm: gradients with a larger global norm, over all parameters
      together, are scaled down to it. None never clips.
  """

  schedule: Schedule
  weight_decay: float = 0.0
  max_grad_norm: float | None = None

  def validate(self) -> None:
    super().validate()
    name = type(self).__name__
    if not 0.0 <= self.weight_decay < math.inf:
      raise ValueError(
        f'{name}.weight_decay must be finite and not negative, got '
        f'{self.weight_decay}.'
      )
    if self.max_grad_norm is not None and not self.max_grad_norm > 0.0:
      raise ValueError(
        f'{name}.max_grad_norm must be positive or None, got '
        f'{self.max_grad_norm}.'
      )

  def make(
    self, schedule: optax.Schedule, *, shard_state: bool = False
  ) -> optax.GradientTransformation:
    """Returns the transformation; its `update` needs the parameters.

    Args:
      schedule: the learning rate by step, as `self.schedule.make` returns it.
      shard_state: whether `update` gets and returns one device's share of the
        state; see `perceiver_jax.training.sharding`.

    Raises:
      ValueError: a field is out of range.
      TypeError: this is the base class.
    """
    raise TypeError(
      f'{type(self).__name__} must be one of Lamb, AdamW and Sgd.'
    )

  def _clip(self) -> optax.GradientTransformation:
    if self.max_grad_norm is None:
      return optax.identity()
    return optax.clip_by_global_norm(self.max_grad_norm)

  def _decay(self) -> optax.GradientTransformation:
    return optax.add_decayed_weights(self.weight_decay, mask=decay_mask)


class _Adam(Optimizer):
  """What the optimizers with Adam's direction have in common.

  Attributes:
    b1: decay of the mean of the gradients, in [0, 1).
    b2: decay of the mean of their squares, in [0, 1).
    eps: added to the root of the latter.
  """

  b1: float = 0.9
  b2: float = 0.999
  eps: float = 1e-8

  def validate(self) -> None:
    super().validate()
    name = type(self).__name__
    _check_decay_rate(f'{name}.b1', self.b1)
    _check_decay_rate(f'{name}.b2', self.b2)
    if not 0.0 < self.eps < math.inf:
      raise ValueError(f'{name}.eps must be positive, got {self.eps}.')

  def _direction(self, shard_state: bool) -> optax.GradientTransformation:
    adam = optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.eps)
    return shared(adam) if shard_state else adam


class Lamb(_Adam):
  """Adam whose every update is scaled to the norm of the array it updates.

  The weight decay is added to Adam's direction before that scaling.

  Source: You et al. (arXiv 1904.00962); the order and constants are those of
  the published Perceiver training script, which decays by 0.1 and clips at 10.
  """

  eps: float = 1e-6

  def make(
    self, schedule: optax.Schedule, *, shard_state: bool = False
  ) -> optax.GradientTransformation:
    self.validate()
    return optax.chain(
      self._clip(),
      self._direction(shard_state),
      self._decay(),
      optax.scale_by_trust_ratio(),
      optax.scale_by_learning_rate(schedule),
    )


class AdamW(_Adam):
  """Adam with decoupled weight decay.

  One update shrinks a parameter by `learning_rate * weight_decay` of itself.

  Source: Loshchilov and Hutter (arXiv 1711.05101).
  """

  def make(
    self, schedule: optax.Schedule, *, shard_state: bool = False
  ) -> optax.GradientTransformation:
    self.validate()
    return optax.chain(
      self._clip(),
      self._direction(shard_state),
      self._decay(),
      optax.scale_by_learning_rate(schedule),
    )


class Sgd(Optimizer):
  """Gradient descent with momentum.

  The weight decay is the gradient of half its product with the squared norm:
  it is added to the clipped gradient, before the momentum.

  Attributes:
    momentum: how much of the last update's direction is kept, in [0, 1).
    use_nesterov: look ahead along the momentum.
  """

  momentum: float = 0.9
  use_nesterov: bool = False

  def validate(self) -> None:
    super().validate()
    _check_decay_rate('Sgd.momentum', self.momentum)

  def make(
    self, schedule: optax.Schedule, *, shard_state: bool = False
  ) -> optax.GradientTransformation:
    self.validate()
    momentum = optax.trace(self.momentum, nesterov=self.use_nesterov)
    return optax.chain(
      self._clip(),
      self._decay(),
      shared(momentum) if shard_state else momentum,
      optax.scale_by_learning_rate(schedule),
    )


def _check_decay_rate(subject: str, value: float) -> None:
  if not 0.0 <= value < 1.0:
    raise ValueError(f'{subject} must be in [0, 1), got {value}.')
