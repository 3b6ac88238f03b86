"""Trains, evaluates or checks what a config describes.

Every value of the config is a flag:

  python train.py --config=configs/digits.py:io --workdir=runs/digits_io \
    --config.optimizer.schedule.learning_rate=1e-3

A directory that holds a checkpoint of the same model is gone on with. With
--distributed, the same command on every host runs one job on all of them.
"""

from collections.abc import Sequence

from absl import app, flags, logging

from perceiver_jax import xla_flags
from perceiver_jax.training import command_line, distributed

_CONFIG = command_line.define_config()
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Directory of checkpoints, metrics and pictures.'
)
_CHECKPOINT = flags.DEFINE_string(
  'checkpoint',
  None,
  'A run or a file of weights to evaluate; tables go to --workdir if given.',
)
_MODE = flags.DEFINE_enum(
  'mode',
  'train',
  ['train', 'eval', 'dry_run'],
  'train: to the end, from the last checkpoint in workdir if there is one. '
  'eval: the last checkpoint; both print their metrics as a line of JSON. '
  'dry_run: check and trace everything, compute nothing, print a summary.',
)
_PROFILE = command_line.define_profile_steps()
_DEBUG_NANS = flags.DEFINE_bool(
  'debug_nans',
  False,
  'End at the first update that is not finite, and say what made it so.',
)
_COMPILE = flags.DEFINE_bool(
  'compile', False, 'Compile in a dry run, and print what memory is needed.'
)
_EXIT_CODE = command_line.define_preempted_exit_code()
distributed.define_flags()


def main(argv: Sequence[str]) -> int:
  """Runs one job and returns the exit code."""
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)
  with distributed.errors_end_at_once(), command_line.errors_in_a_line():
    said, exit_code = _run(argv[1:])
    print(said, end='')
  return exit_code


def _run(arguments: Sequence[str]) -> tuple[str, int]:
  """Returns what one of all processes says, and what each exits with."""
  if arguments:
    raise ValueError(f'every argument must be a flag, got {arguments}.')
  for flag, mode in (
    (_CHECKPOINT, 'eval'),
    (_PROFILE, 'train'),
    (_DEBUG_NANS, 'train'),
    (_COMPILE, 'dry_run'),
    (_EXIT_CODE, 'train'),
  ):
    if flag.value and _MODE.value != mode:
      raise ValueError(
        f'--{flag.name} must come with --mode={mode}, got {_MODE.value}.'
      )
  where = _CHECKPOINT.value or _WORKDIR.value
  if _MODE.value != 'dry_run' and not where:
    raise ValueError(
      f'--workdir must be given with --mode={_MODE.value}, got {where!r}.'
    )
  distributed.check_flags()
  xla_flags.set_cpu_flags()
  trains = _MODE.value == 'train'
  pulse = distributed.join(heeds_sigterm=trains, exit_code=_EXIT_CODE.value)

  # What starts JAX comes after the flags of its compiler.
  from perceiver_jax.training import dry_run, loop, metrics, processes

  exit_code = 0
  with pulse:
    if _MODE.value == 'dry_run':
      summary = dry_run.dry_run(_CONFIG.value, where, compiles=_COMPILE.value)
      said = f'{summary}\n'
    elif trains:
      trained = loop.train(
        _CONFIG.value,
        where,
        _PROFILE.value,
        debug_nans=_DEBUG_NANS.value,
        pulse=pulse,
      )
      said = metrics.json_line(trained)
      exit_code = _EXIT_CODE.value if loop.is_cut_short(trained) else 0
    else:
      report_dir = _WORKDIR.value and f'{_WORKDIR.value}/evaluation'
      evaluated = loop.evaluate(_CONFIG.value, where, report_dir, pulse=pulse)
      said = metrics.json_line(evaluated)
  return said if processes.is_primary() else '', exit_code


if __name__ == '__main__':
  app.run(main, flags_parser=command_line.parse_flags)
