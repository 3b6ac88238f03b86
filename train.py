"""Trains, evaluates or checks what a config describes.

Every field of the config is a flag:

  python train.py --config=configs/digits.py:io --workdir=runs/digits_io \
    --config.optimizer.schedule.learning_rate=1e-3

A directory that holds a checkpoint of the same model is gone on with.
"""

import json
import sys
from collections.abc import Sequence

from absl import app, flags, logging
from ml_collections import config_flags

from perceiver_jax import xla_flags

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'FILE.py or FILE.py:VARIANT, with a function get_config.'
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Directory of checkpoints, metrics and pictures.'
)
_MODE = flags.DEFINE_enum(
  'mode',
  'train',
  ['train', 'eval', 'dry_run'],
  'train: to the end, from the last checkpoint in workdir if there is one. '
  'eval: the last checkpoint; both print their metrics as a line of JSON. '
  'dry_run: check and trace everything, compute nothing, print a summary.',
)


def main(argv: Sequence[str]) -> None:
  """Runs one job; errors of the user end it with a line, not a traceback."""
  if len(argv) > 1:
    raise app.UsageError(f'every argument must be a flag, got {argv[1:]}.')
  if _MODE.value != 'dry_run' and not _WORKDIR.value:
    raise app.UsageError(f'--mode={_MODE.value} must be given a --workdir.')
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)
  xla_flags.set_cpu_flags()

  # What starts JAX comes after the flags of its compiler.
  from perceiver_jax.training import dry_run, loop

  config = _CONFIG.value
  try:
    if _MODE.value == 'dry_run':
      print(dry_run.dry_run(config))
    else:
      run = {'train': loop.train, 'eval': loop.evaluate}[_MODE.value]
      print(json.dumps(run(config, _WORKDIR.value)))
  except (ValueError, OSError) as error:
    sys.exit(f'{type(error).__name__}: {error}')


if __name__ == '__main__':
  flags.mark_flag_as_required('config')
  app.run(main)
