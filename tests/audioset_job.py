"""A job on a few clips of AudioSet, in a process with devices of its own.

python tests/audioset_job.py train DATA_DIR WORKDIR
python tests/audioset_job.py train_until_killed DATA_DIR WORKDIR
python tests/audioset_job.py evaluate DATA_DIR WORKDIR
"""

import json
import sys

import tiny_job

from perceiver_jax import presets
from perceiver_jax.data.audioset.config import AudioSetData
from perceiver_jax.modalities.spec_augment import SpecAugment
from perceiver_jax.tasks.tagging import TaggingTask
from perceiver_jax.training import loop
from perceiver_jax.training.checkpoint import CheckpointConfig
from perceiver_jax.training.config import TrainConfig
from perceiver_jax.training.optimizers import Lamb
from perceiver_jax.training.schedules import FlatThenCosine
from perceiver_jax.xla_flags import set_cpu_flags

NUM_STEPS = 12
CHECKPOINT_STEP = 5
KILL_STEP = 8


def make_config(data_dir) -> TrainConfig:
  """Returns a few steps of the recipe with a model of some thousand numbers.

  Whatever a resume may get wrong plays a part: drawing by class, SpecAugment,
  dropped videos and changes of colour.
  """
  config = TrainConfig(
    model=presets.perceiver_io_audioset_mel_video(),
    data=AudioSetData(
      batch_size=24,
      eval_batch_size=3,
      data_dir=data_dir,
      frame_size=(16, 16),
      num_eval_clips=3,
      balance_classes=True,
      num_threads=2,
    ),
    task=TaggingTask(),
    optimizer=Lamb(
      schedule=FlatThenCosine(learning_rate=2e-2), weight_decay=0.1
    ),
    checkpoint=CheckpointConfig(
      every_steps=CHECKPOINT_STEP,
      best_metric='mean_average_precision',
      keep_best=0,
    ),
    num_steps=NUM_STEPS,
    log_every_steps=1,
    evaluate_every_steps=NUM_STEPS,
  )
  model = config.model
  model.num_latents = 8
  model.latent_channels = 32
  model.num_self_attends_per_block = 1
  model.decoder.query_channels = 32
  sound, video = (model.inputs.modalities[name] for name in ('audio', 'video'))
  sound.patch_size = (6, 8)
  sound.positions.num_bands = video.positions.num_bands = 2
  sound.positions.max_resolution = video.positions.max_resolution = None
  assert isinstance(sound.spec_augment, SpecAugment)
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
      report_dir = f'{workdir}/evaluation'
      print(json.dumps(loop.evaluate(config, workdir, report_dir)))
