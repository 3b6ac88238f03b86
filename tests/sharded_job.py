"""Jobs whose devices divide the state of the optimizer, and of which do not.

python tests/sharded_job.py DATA_DIR WORKDIR NUM_STEPS on|off
"""

import sys

import tiny_job

from perceiver_jax.training.loss_scaling import LossScaling
from perceiver_jax.training.optimizers import Lamb
from perceiver_jax.training.schedules import Constant
from perceiver_jax.xla_flags import set_cpu_flags


def sharded_config(data_dir, *, shard, num_steps=6):
  """Returns a job in which whatever a division may get wrong plays a part."""
  config = tiny_job.tiny_config(data_dir, num_steps=num_steps)
  config.optimizer = Lamb(
    schedule=Constant(learning_rate=0.01, warmup_steps=2),
    weight_decay=0.1,
    max_grad_norm=0.5,
  )
  config.data.batch_size = 32
  config.accumulation_steps = 2
  config.loss_scaling = LossScaling(period_steps=2)
  config.ema_decay = 0.5
  config.shard_optimizer_state = shard
  return config


if __name__ == '__main__':
  set_cpu_flags()
  from perceiver_jax.training import loop

  data_dir, workdir, num_steps, switch = sys.argv[1:]
  loop.train(
    sharded_config(data_dir, shard=switch == 'on', num_steps=int(num_steps)),
    workdir,
  )
