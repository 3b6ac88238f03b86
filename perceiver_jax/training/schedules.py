"""Learning rates over a run: each schedule is a config that makes a function.

A schedule made here is an `optax.Schedule`: it maps the number of updates done
so far (0 for the first update) to the learning rate of the next one.
"""

import math

import jax
import jax.numpy as jnp
import optax

from perceiver_jax.config import Config


class Schedule(Config):
  """A learning rate: a peak, a linear warm-up, and the shape of a subclass.

  Attributes:
    learning_rate: the highest learning rate, reached after the warm-up.
    warmup_steps: the learning rate rises linearly from 0 at step 0 to its peak
      at this step; 0 starts at the peak.
    reference_batch_size: the global batch size, in examples, that
      `learning_rate` was chosen for; in a run with another batch size it is
      scaled in proportion. None never scales it.
  """

  learning_rate: float
  warmup_steps: int = 0
  reference_batch_size: int | None = None

  def validate(self) -> None:
    super().validate()
    name = type(self).__name__
    if not 0.0 <= self.learning_rate < math.inf:
      raise ValueError(
        f'{name}.learning_rate must be finite and not negative, got '
        f'{self.learning_rate}.'
      )
    if self.warmup_steps < 0:
      raise ValueError(
        f'{name}.warmup_steps must not be negative, got {self.warmup_steps}.'
      )
    if self.reference_batch_size is not None and self.reference_batch_size < 1:
      raise ValueError(
        f'{name}.reference_batch_size must be at least 1 or None, got '
        f'{self.reference_batch_size}.'
      )

  def make(
    self, *, batch_size: int, steps_per_epoch: float, num_steps: int
  ) -> optax.Schedule:
    """Returns the function from a step to its learning rate.

    Args:
      batch_size: examples of one update over all devices and processes.
      steps_per_epoch: updates in one pass over the training set; a fraction
        where the batch size does not divide it.
      num_steps: updates of the whole run.

    Raises:
      ValueError: a field is out of range, the run has no steps, or the
        warm-up is longer than the run.
    """
    self.validate()
    for subject, value in {
      'batch_size': batch_size,
      'steps_per_epoch': steps_per_epoch,
      'num_steps': num_steps,
    }.items():
      if not value > 0:
        raise ValueError(f'{subject} must be positive, got {value}.')
    if self.warmup_steps > num_steps:
      raise ValueError(
        f'{type(self).__name__}.warmup_steps must be at most the '
        f'{num_steps} steps of the run, got {self.warmup_steps}.'
      )
    peak = self.learning_rate
    if self.reference_batch_size is not None:
      peak *= batch_size / self.reference_batch_size

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
      step = jnp.asarray(step, jnp.float32)
      rate = peak * self._shape(step, steps_per_epoch, num_steps)
      if self.warmup_steps:
        rate *= jnp.minimum(1.0, step / self.warmup_steps)
      return rate

    return schedule

  def _shape(
    self, step: jax.Array, steps_per_epoch: float, num_steps: int
  ) -> jax.Array:
    """Returns the fraction of the peak at `step`, leaving the warm-up out."""
    raise TypeError(
      f'{type(self).__name__} must be one of the schedules with a shape, such '
      'as Constant or Cosine.'
    )


class Constant(Schedule):
  """Stays at the peak."""

  def _shape(
    self, step: jax.Array, steps_per_epoch: float, num_steps: int
  ) -> jax.Array:
    return jnp.ones_like(step)


class Cosine(Schedule):
  """Falls along half a cosine from the end of the warm-up to the last step.

  Attributes:
    final_fraction: where it ends, as a fraction of the peak, in [0, 1].
  """

  final_fraction: float = 0.0

  def validate(self) -> None:
    super().validate()
    _check_fraction('Cosine.final_fraction', self.final_fraction)

  def _shape(
    self, step: jax.Array, steps_per_epoch: float, num_steps: int
  ) -> jax.Array:
    fall = _half_cosine(step, self.warmup_steps, num_steps)
    return self.final_fraction + (1.0 - self.final_fraction) * fall


class FlatThenCosine(Schedule):
  """Stays at the peak, then falls along half a cosine to 0.

  Source: Perceiver IO (arXiv 2107.14795), appendix A: 2e-3 for 55 epochs, then
  a cosine to 0 over 55 epochs, no warm-up.

  Attributes:
    flat_fraction: the part of the run before the fall, in [0, 1]; the warm-up
      is in it. The fall never begins before the warm-up ends.
  """

  flat_fraction: float = 0.5

  def validate(self) -> None:
    super().validate()
    _check_fraction('FlatThenCosine.flat_fraction', self.flat_fraction)

  def _shape(
    self, step: jax.Array, steps_per_epoch: float, num_steps: int
  ) -> jax.Array:
    start = max(self.flat_fraction * num_steps, self.warmup_steps)
    return _half_cosine(step, start, num_steps)


class StepDecay(Schedule):
  """Is multiplied by a factor at the start of each of the given epochs.

  Source: Perceiver (arXiv 2103.03206), section 4.1: 0.004, times 0.1 at epochs
  84, 102 and 114 of 120.

  Attributes:
    decay_epochs: when to decay, in epochs from the start of the run,
      increasing; one beyond the end of the run is never reached.
    factor: what one decay multiplies by, in [0, 1].
  """

  decay_epochs: tuple[float, ...]
  factor: float = 0.1

  def validate(self) -> None:
    super().validate()
    _check_fraction('StepDecay.factor', self.factor)
    pairs = zip((0.0, *self.decay_epochs), self.decay_epochs, strict=False)
    if not all(before < after for before, after in pairs):
      raise ValueError(
        'StepDecay.decay_epochs must be positive and increasing, got '
        f'{self.decay_epochs}.'
      )

  def _shape(
    self, step: jax.Array, steps_per_epoch: float, num_steps: int
  ) -> jax.Array:
    shape = jnp.ones_like(step)
    for epoch in self.decay_epochs:
      # The first update that begins at or after the epoch; rounding first,
      # because 1.1 * 100 is a little more than 110.
      start = math.ceil(round(epoch * steps_per_epoch, 6))
      shape = jnp.where(step >= start, shape * self.factor, shape)
    return shape


def _half_cosine(step: jax.Array, start: float, stop: float) -> jax.Array:
  """Returns 1 up to `start`, 0 from `stop` on, half a cosine between them."""
  progress = jnp.clip((step - start) / max(stop - start, 1.0), 0.0, 1.0)
  return 0.5 * (1.0 + jnp.cos(jnp.pi * progress))


def _check_fraction(subject: str, value: float) -> None:
  if not 0.0 <= value <= 1.0:
    raise ValueError(f'{subject} must be in [0, 1], got {value}.')
