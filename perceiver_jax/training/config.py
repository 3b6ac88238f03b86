"""The whole of a training job in one description."""

import dataclasses
import math

from perceiver_jax.config import Config
from perceiver_jax.data.base import DataConfig
from perceiver_jax.model import PerceiverConfig, Precision
from perceiver_jax.tasks.base import TaskConfig
from perceiver_jax.training.checkpoint import CheckpointConfig
from perceiver_jax.training.initial_weights import InitialWeights
from perceiver_jax.training.loss_scaling import LossScaling
from perceiver_jax.training.optimizers import Optimizer
from perceiver_jax.training.watch import WatchConfig


class TrainConfig(Config):
  """Describes a training job; everything that changes a number is in it.

  Attributes:
    model: the model.
    data: where examples come from.
    task: what is learned from them.
    optimizer: how.
    initial_weights: what the parameters start from; None: random values.
    checkpoint: when the state is saved, and what is kept.
    seed: of the parameters, the order of examples, augmentation and dropout.
    accumulation_steps: parts of a device's share of the batch whose gradients
      are computed one after the other, to need less memory; the update is that
      of the whole batch. Statistics of batch norm are those of the parts.
    num_epochs: length of the run in passes over the training split. None: see
      `num_steps`; exactly one of the two is set.
    num_steps: length of the run in updates.
    watch: when an update that is not finite ends the run, and what is logged.
    loss_scaling: needed to train in float16; None: the loss is not scaled.
    ema_decay: of a running mean of the parameters, kept beside them, which is
      what evaluations use then (after `t` updates it decays by at most
      `(1 + t) / (10 + t)`; running statistics of batch norm are those of the
      parameters themselves); None: the parameters are evaluated.
    shard_optimizer_state: whether the devices divide the state of the
      optimizer, and the running mean of the parameters, instead of keeping a
      copy each: less memory for a longer exchange. The numbers are the same.
    log_every_steps: updates between two lines of training metrics.
    log_norms_by_module: whether those have the norms of the gradient and of
      the update of every module.
    log_histograms_every_steps: updates between two for which TensorBoard gets
      histograms of the gradient, the update and the parameters of every module;
      such an update takes the time of two. None: there are none.
    evaluate_every_steps: updates between two evaluations; one more follows
      the last update.
    report_every_steps: updates between two evaluations whose tables and
      pictures are written, as those of the last always are; a multiple of
      `evaluate_every_steps`. None: only the last.
  """

  model: PerceiverConfig
  data: DataConfig
  task: TaskConfig
  optimizer: Optimizer
  initial_weights: InitialWeights | None = None
  checkpoint: CheckpointConfig = dataclasses.field(
    default_factory=CheckpointConfig
  )
  seed: int = 0
  accumulation_steps: int = 1
  num_epochs: float | None = None
  num_steps: int | None = None
  watch: WatchConfig = dataclasses.field(default_factory=WatchConfig)
  loss_scaling: LossScaling | None = None
  ema_decay: float | None = None
  shard_optimizer_state: bool = False
  log_every_steps: int = 50
  log_norms_by_module: bool = False
  log_histograms_every_steps: int | None = None
  evaluate_every_steps: int = 1000
  report_every_steps: int | None = None

  def validate(self) -> None:
    super().validate()
    self.task.validate_model(self.model)
    if (self.num_epochs is None) == (self.num_steps is None):
      raise ValueError(
        'exactly one of num_epochs and num_steps must be set, got '
        f'{self.num_epochs} and {self.num_steps}.'
      )
    for name in (
      'accumulation_steps',
      'num_epochs',
      'num_steps',
      'log_every_steps',
      'log_histograms_every_steps',
      'evaluate_every_steps',
      'report_every_steps',
    ):
      value = getattr(self, name)
      if value is not None and not 0 < value < math.inf:
        raise ValueError(f'{name} must be positive and finite, got {value}.')
    if (self.report_every_steps or 0) % self.evaluate_every_steps:
      raise ValueError(
        'report_every_steps must be a multiple of evaluate_every_steps '
        f'{self.evaluate_every_steps}, got {self.report_every_steps}.'
      )
    is_float16 = self.model.precision is Precision.FLOAT16
    if is_float16 and self.loss_scaling is None:
      raise ValueError(
        'the precision of training must be FLOAT32 or BFLOAT16, got FLOAT16, '
        'whose gradients would vanish without loss_scaling=LossScaling().'
      )
    if self.ema_decay is not None and not 0.0 < self.ema_decay < 1.0:
      raise ValueError(f'ema_decay must be in (0, 1), got {self.ema_decay}.')
    checkpoint = self.checkpoint
    if (
      checkpoint.keep_best
      and checkpoint.every_steps % self.evaluate_every_steps
    ):
      raise ValueError(
        'checkpoint.every_steps must be a multiple of evaluate_every_steps '
        f'{self.evaluate_every_steps}, so that the best can be told, got '
        f'{checkpoint.every_steps}; or set checkpoint.keep_best to 0.'
      )
    if not 0 <= self.seed < 2**32:
      raise ValueError(f'seed must be in [0, 2**32), got {self.seed}.')

  def steps(self, num_examples: int) -> int:
    """Returns the number of updates of the run.

    Args:
      num_examples: size of the training split.
    """
    if self.num_steps is not None:
      return self.num_steps
    return math.ceil(self.num_epochs * num_examples / self.data.batch_size)
