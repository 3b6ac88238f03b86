"""A training job of seconds, and what runs it in a process of its own.

python tests/tiny_job.py steps DATA_DIR FILE.npz
python tests/tiny_job.py train_until_killed DATA_DIR WORKDIR
"""

import os
import pathlib
import signal
import sys
import time

import jax
import numpy as np
from tiny_tagging import augmented_config

from perceiver_jax.data.base import train_batches
from perceiver_jax.data.digits import DigitsData
from perceiver_jax.modalities.image import (
  ConvEmbedding,
  FourierPositions,
  ImageInput,
)
from perceiver_jax.modalities.label import LabelOutput
from perceiver_jax.model import AverageDecoder, PerceiverConfig
from perceiver_jax.nn.blocks import SelfAttendConfig
from perceiver_jax.nn.repeat import Remat
from perceiver_jax.tasks.classification import ClassificationTask
from perceiver_jax.tasks.mixing import Mixing
from perceiver_jax.training import parallel
from perceiver_jax.training.checkpoint import CheckpointConfig
from perceiver_jax.training.config import TrainConfig
from perceiver_jax.training.job import (
  device_batches,
  first_state,
  make_job,
  this_process,
  train_step,
)
from perceiver_jax.training.metrics import MetricWriter
from perceiver_jax.training.optimizers import AdamW, Sgd
from perceiver_jax.training.schedules import Constant
from perceiver_jax.xla_flags import set_cpu_flags

LEARNING_RATE = 0.1
NUM_STEPS = 3


def tiny_config(data_dir, embedding=None, **fields) -> TrainConfig:
  """Returns a job over the digits with a model of a few hundred numbers."""
  inputs = ImageInput(image_channels=1, positions=FourierPositions(num_bands=2))
  if embedding is not None:
    inputs.embedding = embedding
  config = TrainConfig(
    model=PerceiverConfig(
      inputs=inputs,
      outputs=LabelOutput(num_classes=10),
      num_latents=4,
      latent_channels=8,
      num_blocks=1,
      num_self_attends_per_block=1,
      self_attend=SelfAttendConfig(num_heads=1),
      decoder=AverageDecoder(),
    ),
    data=DigitsData(batch_size=16, eval_batch_size=48, data_dir=data_dir),
    task=ClassificationTask(label_smoothing=0.1),
    optimizer=AdamW(schedule=Constant(learning_rate=1e-2)),
    checkpoint=CheckpointConfig(every_steps=2, keep_best=0),
    num_steps=6,
    log_every_steps=1,
    evaluate_every_steps=3,
  )
  for name, value in fields.items():
    setattr(config, name, value)
  return config


def resumable_config(data_dir) -> TrainConfig:
  """Returns a job in which whatever a resume may get wrong plays a part."""
  config = tiny_config(data_dir, ConvEmbedding(channels=4))
  config.model.self_attend.dropout_prob = 0.1
  config.optimizer.schedule.warmup_steps = 4
  config.data.max_shift = 1
  return config


def few_steps(config) -> dict[str, np.ndarray]:
  """Returns metrics and parameters of some updates, by name."""
  job = make_job(config)
  state = first_state(job)
  update = parallel.parallel_train_step(train_step(job))
  batches = train_batches(
    config.data, seed=config.seed, start_step=0, shard=this_process()
  )
  arrays = _named('params_0', state.params)
  with device_batches(job, batches) as on_devices:
    for step in range(1, NUM_STEPS + 1):
      state, metrics = update(state, next(on_devices))
      arrays |= _named(f'metrics_{step}', metrics)
      arrays |= _named(f'params_{step}', state.params)
  return arrays | _named('model_state', state.model_state)


def all_steps(data_dir) -> dict[str, np.ndarray]:
  """Returns `few_steps` of models that make devices work together."""
  stem = ConvEmbedding(channels=4, sync_batch_norm=True)
  task = ClassificationTask(mixing=Mixing())
  # Two images at a time on each of eight devices.
  mixed = tiny_config(data_dir, task=task)
  mixed.data.batch_size = 32
  accumulated = mixed.copy()
  accumulated.accumulation_steps = 2
  # Both save memory, and are used together.
  for part in (accumulated.model.cross_attend, accumulated.model.self_attend):
    part.remat = Remat.ALL
  configs = {
    'plain': tiny_config(data_dir),
    'mixed': mixed,
    'accumulated': accumulated,
    'synchronised': tiny_config(data_dir, stem, task=task),
    'augmented': augmented_config(),
    'augmented_in_parts': augmented_config(accumulation_steps=2),
  }
  if jax.device_count() > 1:
    configs['unsynchronised'] = tiny_config(
      data_dir, ConvEmbedding(channels=4), task=task
    )
  arrays = {}
  for name, config in configs.items():
    config.optimizer = Sgd(
      schedule=Constant(learning_rate=LEARNING_RATE), momentum=0.0
    )
    for key, value in few_steps(config).items():
      arrays[f'{name}/{key}'] = value
  return arrays


def _named(prefix, tree):
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {
    f'{prefix}/{jax.tree_util.keystr(path, simple=True, separator="/")}':
    # A copy, because the next step is given the memory.
    np.array(leaf)
    for path, leaf in leaves
  }


def train_until_killed(config, workdir, *, checkpoint_step, kill_step) -> None:
  """Trains, and is killed after a checkpoint and lines of metrics more."""
  from perceiver_jax.training import loop

  write = MetricWriter.write
  checkpoint = pathlib.Path(workdir) / 'checkpoints' / str(checkpoint_step)

  def write_and_die(self, step, split, metrics):
    write(self, step, split, metrics)
    if step == kill_step:
      while not checkpoint.exists():
        time.sleep(0.01)
      os.kill(os.getpid(), signal.SIGKILL)

  MetricWriter.write = write_and_die
  loop.train(config, workdir)


if __name__ == '__main__':
  set_cpu_flags()
  command, data_dir, path = sys.argv[1:]
  if command == 'steps':
    np.savez(path, **all_steps(data_dir))
  else:
    config = resumable_config(data_dir)
    train_until_killed(config, path, checkpoint_step=4, kill_step=5)
