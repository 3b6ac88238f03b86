"""Jobs of seconds for `train.py`: --config=tests/tiny_job_config.py:VARIANT.

The data set lies in the default TFDS directory.
"""

import tiny_job

from perceiver_jax.training.optimizers import Sgd
from perceiver_jax.training.schedules import Constant


def get_config(variant: str = ''):
  match variant:
    case '':
      config = tiny_job.tiny_config(None)
    case 'resumable':
      config = tiny_job.resumable_config(None)
    case _:
      raise ValueError(f"the variant must be '' or resumable, got {variant!r}.")
  # Adam would make updates of rounding errors, where the gradient is nothing
  # else.
  schedule = Constant(learning_rate=0.1, warmup_steps=4)
  config.optimizer = Sgd(schedule=schedule, momentum=0.9)
  return config
