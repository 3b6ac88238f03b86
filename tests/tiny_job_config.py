"""Jobs of seconds for `train.py`: --config=tests/tiny_job_config.py:VARIANT.

The data set lies in the default TFDS directory. `started=WORKDIR` starts from
the weights of a run, but for its outputs.
"""

import tiny_job
from poisoned import LogOfNegativeTask

from perceiver_jax.modalities.image import ConvEmbedding
from perceiver_jax.training.initial_weights import InitialWeights
from perceiver_jax.training.optimizers import Sgd
from perceiver_jax.training.schedules import Constant


def get_config(variant: str = ''):
  variant, _, path = variant.partition('=')
  match variant:
    case '':
      config = tiny_job.tiny_config(None)
    case 'resumable':
      config = tiny_job.resumable_config(None)
    case 'started':
      config = tiny_job.resumable_config(None)
      config.initial_weights = InitialWeights(
        path=path, new_modules=('outputs',)
      )
      config.ema_decay, config.shard_optimizer_state = 0.5, True
    case 'log_of_negative':
      stem = ConvEmbedding(channels=4, sync_batch_norm=True)
      config = tiny_job.tiny_config(None, stem, task=LogOfNegativeTask())
    case _:
      raise ValueError(
        f'the variant must be one of this file, got {variant!r}.'
      )
  # Adam would make updates of rounding errors, where the gradient is nothing
  # else.
  schedule = Constant(learning_rate=0.1, warmup_steps=4)
  config.optimizer = Sgd(schedule=schedule, momentum=0.9)
  return config
