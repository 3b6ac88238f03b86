"""What training changes from step to step, and where it lives."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from perceiver_jax.arrays import Params, Rng, State
from perceiver_jax.tasks.base import Batch, Task


class TrainState(NamedTuple):
  """Everything a checkpoint holds; the rest follows from the config.

  Attributes:
    step: updates done so far; also the position in the data.
    params: parameters of the model.
    model_state: running statistics of the model.
    optimizer_state: as optax keeps it.
  """

  step: jax.Array
  params: Params
  model_state: State
  optimizer_state: Any


def init_state(
  rng: Rng, task: Task, optimizer: optax.GradientTransformation, batch: Batch
) -> TrainState:
  """Returns the state before the first update.

  Args:
    rng: the key that parameters are drawn with.
    task: makes the parameters.
    optimizer: whose state starts with them.
    batch: of the right shapes; its values do not matter.
  """
  params, model_state = task.init(rng, batch)
  return TrainState(
    jnp.zeros((), jnp.int32), params, model_state, optimizer.init(params)
  )
