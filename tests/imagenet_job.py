"""A job on a few images of ImageNet, in a process with devices of its own.

python tests/imagenet_job.py train DATA_DIR WORKDIR
python tests/imagenet_job.py train_until_killed DATA_DIR WORKDIR
python tests/imagenet_job.py evaluate DATA_DIR WORKDIR
"""

import json
import sys

import tiny_job

from perceiver_jax.data.imagenet import ImageNetData
from perceiver_jax.modalities.label import LabelOutput
from perceiver_jax.tasks.classification import ClassificationTask
from perceiver_jax.tasks.mixing import Mixing
from perceiver_jax.training import loop
from perceiver_jax.training.checkpoint import CheckpointConfig
from perceiver_jax.training.config import TrainConfig
from perceiver_jax.xla_flags import set_cpu_flags

NUM_STEPS = 20
CHECKPOINT_STEP = 10
KILL_STEP = 13


def make_config(data_dir) -> TrainConfig:
  """Returns 20 steps of the recipe with a model of a few thousand numbers."""
  config = tiny_job.tiny_config(
    data_dir,
    data=ImageNetData(
      batch_size=48,
      eval_batch_size=5,
      data_dir=data_dir,
      image_size=(16, 16),
      num_threads=2,
    ),
    task=ClassificationTask(
      label_smoothing=0.1,
      mixing=Mixing(),
      image_mean=(0.485, 0.456, 0.406),
      image_std=(0.229, 0.224, 0.225),
    ),
    checkpoint=CheckpointConfig(every_steps=CHECKPOINT_STEP, keep_best=0),
    num_steps=NUM_STEPS,
    evaluate_every_steps=NUM_STEPS,
  )
  config.model.inputs.image_channels = 3
  config.model.outputs = LabelOutput(num_classes=1000)
  return config


if __name__ == '__main__':
  set_cpu_flags()
  command, data_dir, workdir = sys.argv[1:]
  config = make_config(data_dir)
  match command:
    case 'train':
      loop.train(config, workdir)
    case 'train_until_killed':
      tiny_job.train_until_killed(
        config, workdir, checkpoint_step=CHECKPOINT_STEP, kill_step=KILL_STEP
      )
    case 'evaluate':
      print(json.dumps(loop.evaluate(config, workdir)))
