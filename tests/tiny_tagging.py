"""An evaluation of tags in seconds, on devices of its own.

python tests/tiny_tagging.py DIRECTORY

leaves what each process found in DIRECTORY/0.npz and so on; flags as those of
`train.py` make it one of many.
"""

import sys

import jax
import numpy as np
from absl import flags

from perceiver_jax.data.base import DataConfig
from perceiver_jax.modalities.audio import AudioInput, SpectrogramInput
from perceiver_jax.modalities.base import InputConfig
from perceiver_jax.modalities.grid import FourierPositions
from perceiver_jax.modalities.label import LabelOutput
from perceiver_jax.modalities.multimodal import MultimodalInput
from perceiver_jax.modalities.spec_augment import SpecAugment
from perceiver_jax.modalities.video import VideoInput
from perceiver_jax.model import AverageDecoder, PerceiverConfig
from perceiver_jax.nn.blocks import SelfAttendConfig
from perceiver_jax.tasks.tagging import TaggingTask
from perceiver_jax.training import distributed
from perceiver_jax.training.checkpoint import CheckpointConfig
from perceiver_jax.training.config import TrainConfig
from perceiver_jax.training.evaluation import make_evaluator
from perceiver_jax.training.job import first_state, make_job
from perceiver_jax.training.optimizers import AdamW
from perceiver_jax.training.schedules import Constant
from perceiver_jax.xla_flags import set_cpu_flags

NUM_EXAMPLES = 37
NUM_CLASSES = 5
ABSENT_CLASS = 3
NUM_SAMPLES = 16


class NoiseData(DataConfig):
  """Three clips of noise, and tags drawn by lot; class 3 never comes."""

  batch_size: int = 8
  eval_batch_size: int = 10
  train_split: str = 'train'
  eval_split: str = 'test'
  num_threads: int = 1

  def make_source(self, split):
    return range(NUM_EXAMPLES)

  def preprocess(self, example, rng):
    noise = np.random.default_rng(example)
    labels = noise.random(NUM_CLASSES) < 0.4
    labels[ABSENT_CLASS] = False
    shape = (3, NUM_SAMPLES, 1)
    audio = noise.integers(-(2**15), 2**15, size=shape, dtype=np.int16)
    return {'audio': audio, 'labels': labels.astype(np.uint8)}


class AugmentedData(NoiseData):
  """Clips long enough for a spectrogram, each with a video of noise."""

  batch_size: int = 16

  def preprocess(self, example, rng):
    noise = np.random.default_rng(example)
    audio = noise.integers(-(2**15), 2**15, size=(3, 64, 1), dtype=np.int16)
    video = noise.integers(256, size=(3, 2, 4, 4, 3), dtype=np.uint8)
    clips = {'audio': audio, 'video': video}
    return super().preprocess(example, rng) | clips


def audio_input() -> AudioInput:
  return AudioInput(
    samples_per_patch=4,
    num_samples=NUM_SAMPLES,
    positions=FourierPositions(num_bands=1),
  )


def video_input() -> VideoInput:
  positions = FourierPositions(num_bands=1)
  return VideoInput(patch_size=(1, 2, 2), positions=positions)


def both_inputs() -> MultimodalInput:
  return MultimodalInput(
    modalities={'audio': audio_input(), 'video': video_input()}
  )


def tiny_model(inputs: InputConfig) -> PerceiverConfig:
  return PerceiverConfig(
    inputs=inputs,
    outputs=LabelOutput(num_classes=NUM_CLASSES),
    num_latents=4,
    latent_channels=8,
    num_blocks=1,
    num_self_attends_per_block=1,
    self_attend=SelfAttendConfig(num_heads=1),
    decoder=AverageDecoder(),
  )


def tiny_config() -> TrainConfig:
  return TrainConfig(
    model=tiny_model(audio_input()),
    data=NoiseData(),
    task=TaggingTask(),
    optimizer=AdamW(schedule=Constant(learning_rate=1e-2)),
    checkpoint=CheckpointConfig(best_metric='mean_average_precision'),
    num_steps=2,
  )


def augmented_config(**fields) -> TrainConfig:
  """Returns a job in which the model draws something for every example."""
  spectrogram = SpectrogramInput(
    window_size=8,
    hop_size=4,
    num_mels=4,
    sample_rate_hz=80.0,
    min_hz=0.0,
    max_hz=40.0,
    positions=FourierPositions(num_bands=1),
    spec_augment=SpecAugment(max_time_share=0.5, max_mel_share=0.5),
  )
  inputs = MultimodalInput(
    modalities={'audio': spectrogram, 'video': video_input()},
    drop_probs={'audio': 0.2, 'video': 0.4},
    mask_probs={'video': 0.3},
  )
  config = tiny_config()
  config.model = tiny_model(inputs)
  config.data = AugmentedData()
  for name, value in fields.items():
    setattr(config, name, value)
  return config


def evaluated() -> dict[str, np.ndarray]:
  """Returns the metrics of the first state, and what they were made of."""
  job = make_job(tiny_config(), is_training=False)
  seen = {}

  def split_metrics(outcomes):
    seen.update(outcomes)
    return job.task.split_metrics(outcomes)

  task = job.task._replace(split_metrics=split_metrics)
  metrics = make_evaluator(job._replace(task=task))(first_state(job))
  return {**metrics, **seen}


if __name__ == '__main__':
  set_cpu_flags()
  flag_values = flags.FlagValues()
  distributed.define_flags(flag_values)
  _, directory = flag_values(sys.argv)
  with distributed.join(heeds_sigterm=False, flag_values=flag_values):
    path = f'{directory}/{jax.process_index()}.npz'
    np.savez(path, **evaluated(), devices=jax.device_count())
