"""What training changes from step to step, and where it lives."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from perceiver_jax.arrays import Params, Rng, State
from perceiver_jax.tasks.base import Batch, Task
from perceiver_jax.training.loss_scaling import LossScale, LossScaling
from perceiver_jax.training.sharding import unshare
from perceiver_jax.training.watch import WatchState, init_watch


class TrainState(NamedTuple):
  """Everything a checkpoint holds; the rest follows from the config.

  Attributes:
    step: updates done so far, skipped ones too; also the position in the data.
    params: parameters of the model.
    model_state: running statistics of the model.
    optimizer_state: as optax keeps it.
    watch: what went wrong so far.
    ema_params: running mean of the parameters; {} if none is kept.
    loss_scale: () if the loss is not scaled.
  """

  step: jax.Array
  params: Params
  model_state: State
  optimizer_state: Any
  watch: WatchState
  ema_params: Params
  loss_scale: LossScale | tuple[()]

  @property
  def evaluated_params(self) -> Params:
    """The parameters that are evaluated and used: the mean, if it is kept.

    For per-device functions, because each device may have a share of the mean.
    """
    if not self.ema_params:
      return self.params
    return unshare(self.ema_params, like=self.params)


def init_state(
  rng: Rng,
  task: Task,
  optimizer: optax.GradientTransformation,
  batch: Batch,
  *,
  has_ema: bool,
  loss_scaling: LossScaling | None,
) -> TrainState:
  """Returns the state before the first update.

  Args:
    rng: the key that parameters are drawn with.
    task: makes the parameters.
    optimizer: whose state starts with them.
    batch: of the right shapes; its values do not matter.
    has_ema: whether a running mean of the parameters is kept.
    loss_scaling: how the loss is scaled, if it is.
  """
  params, model_state = task.init(rng, batch)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    model_state=model_state,
    optimizer_state=optimizer.init(params),
    watch=init_watch(),
    ema_params=params if has_ema else {},
    loss_scale=() if loss_scaling is None else loss_scaling.init(),
  )


def evaluation_state(params: Params, model_state: State) -> TrainState:
  """Returns a state of weights alone, which can be evaluated."""
  step = jnp.zeros((), jnp.int32)
  return TrainState(step, params, model_state, (), init_watch(), {}, ())
