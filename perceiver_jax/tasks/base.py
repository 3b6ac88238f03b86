"""What an objective is: pure functions from a batch to a loss and metrics."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from perceiver_jax.arrays import ExampleRngs, Params, Rng, State
from perceiver_jax.config import Config
from perceiver_jax.model import PerceiverConfig

Batch = Mapping[str, Any]
"""Arrays by name; the first axis of each is the batch."""

Metrics = dict[str, Float[Array, 'B']]
"""One number an example, by name."""


Outcomes = dict[str, Array]
"""What became of each example, by name; the first axis of each is the batch."""


@runtime_checkable
class InitFunction(Protocol):
  """Makes parameters and running statistics for batches like `batch`."""

  def __call__(self, rng: Rng, batch: Batch) -> tuple[Params, State]: ...


@runtime_checkable
class InputsFunction(Protocol):
  """Returns what the model gets of a batch."""

  def __call__(self, batch: Batch) -> Any: ...


@runtime_checkable
class AugmentFunction(Protocol):
  """Augments a batch to train on, on the device.

  Args:
    rng: the key of the step, the same on every device.
    positions: of the examples in the global batch.
    batch: examples.
  """

  def __call__(
    self, rng: Rng, positions: Int[Array, ' B'], batch: Batch
  ) -> Batch: ...


@runtime_checkable
class LossFunction(Protocol):
  """Computes what training minimises, a mean over the examples of a batch.

  Args:
    params: of the model.
    state: running statistics.
    rngs: what the model augments of an example depends on its own alone.
    batch: examples.
  """

  def __call__(
    self, params: Params, state: State, rngs: ExampleRngs, batch: Batch
  ) -> tuple[Float[Array, ''], tuple[State, Metrics]]: ...


@runtime_checkable
class MetricsFunction(Protocol):
  """Evaluates every example of a batch by itself.

  Returns metrics, which are averaged, and outcomes, for a `Report` and for
  metrics of the whole split.
  """

  def __call__(
    self, params: Params, state: State, batch: Batch
  ) -> tuple[Metrics, Outcomes]: ...


@runtime_checkable
class SplitMetricsFunction(Protocol):
  """Computes metrics that are no means over examples, such as ranks.

  Args:
    outcomes: of all examples of a split, on the host, in any order.
  """

  def __call__(
    self, outcomes: Mapping[str, np.ndarray]
  ) -> dict[str, float]: ...


@runtime_checkable
class Report(Protocol):
  """What people want to see of an evaluation beyond its metrics."""

  def observe(self, outcomes: Mapping[str, np.ndarray]) -> None:
    """Takes note of what became of some examples; of each it is told once."""
    ...

  def show(
    self, batch: Mapping[str, np.ndarray], outcomes: Mapping[str, np.ndarray]
  ) -> None:
    """Sees examples that may be drawn, and what became of them.

    With many processes, they are those of the first, which saves the report.
    """
    ...

  def save(
    self, directory: str | os.PathLike[str]
  ) -> Mapping[str, UInt8[np.ndarray, 'height width 3']]:
    """Writes tables, and pictures as `NAME.png`; returns the latter by name."""
    ...


class Task(NamedTuple):
  """An objective for one model, as pure functions over batches.

  Attributes:
    inputs: what the model gets of a batch.
    init: makes parameters.
    augment: changes a batch before the loss, in training; what it draws
      depends on the places of examples, not on how they lie on devices.
    loss: of a batch, with metrics of its examples, in training.
    metrics: of the examples of a batch, in evaluation.
    split_metrics: of the outcomes of a whole split; None: there are none.
  """

  inputs: InputsFunction
  init: InitFunction
  augment: AugmentFunction
  loss: LossFunction
  metrics: MetricsFunction
  split_metrics: SplitMetricsFunction | None = None


class TaskConfig(Config):
  """Describes an objective; knows no data set."""

  def validate_model(self, model: PerceiverConfig) -> None:
    """Checks that a model has the outputs that this task is about.

    Raises:
      ValueError: it does not.
    """
    raise TypeError(f'{type(self).__name__} must define validate_model.')

  def validate_spec(
    self, spec: Mapping[str, Any], model: PerceiverConfig
  ) -> None:
    """Checks names, shapes and dtypes of the arrays of one example.

    Args:
      spec: by name, something with a `shape` and a `dtype`.
      model: the model the examples are for.

    Raises:
      ValueError: an array is missing or does not suit the task.
    """
    raise TypeError(f'{type(self).__name__} must define validate_spec.')

  def validate_batch(
    self, batch: Mapping[str, np.ndarray], model: PerceiverConfig
  ) -> None:
    """Checks the values of a batch, before it goes to a device.

    Raises:
      ValueError: a value is outside its range.
    """
    raise TypeError(f'{type(self).__name__} must define validate_batch.')

  def make_report(self, class_names: Sequence[str]) -> Report:
    """Makes what collects a report during an evaluation.

    Args:
      class_names: of the labels, in order; () if the data has none.
    """
    raise TypeError(f'{type(self).__name__} must define make_report.')

  def make(self, model: PerceiverConfig) -> Task:
    """Makes the pure functions of this task for a model."""
    raise TypeError(f'{type(self).__name__} must define make.')


def mean_metrics(metrics: Metrics) -> dict[str, Float[Array, '']]:
  """Returns the mean of every metric over the examples."""
  return jax.tree.map(lambda values: values.mean(), metrics)
