"""The config as a flag: from the command line to a `TrainConfig`."""

import contextlib
import itertools
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags, logging
from ml_collections import config_flags
from ml_collections.config_flags import config_path, tuple_parser

from perceiver_jax.buckets import os_errors
from perceiver_jax.config import Config, subclasses, unknown_field
from perceiver_jax.training.config import TrainConfig
from perceiver_jax.training.profiling import parse_steps

_CONFIG = 'config'
_MODULE = f'{_CONFIG}_config'  # What ml_collections calls the loaded file.


class _OrNone(flags.ArgumentParser):
  """Reads `None` too; the config itself refuses it where it may not be."""

  def __init__(self, parser: flags.ArgumentParser) -> None:
    self._parser = parser
    self.syntactic_help = parser.syntactic_help

  def parse(self, argument: Any) -> Any:
    if argument in (None, 'None', 'none'):
      return None
    return self._parser.parse(argument)

  def flag_type(self) -> str:
    return self._parser.flag_type()


class _Part(flags.ArgumentParser):
  """Reads `build` as a part of the config with its defaults."""

  syntactic_help = 'build or None'

  def __init__(self, kind: type[Config]) -> None:
    self._kind = kind

  def parse(self, argument: Any) -> Config:
    if isinstance(argument, self._kind):
      return argument
    if argument != 'build':
      raise ValueError(f'it must be build or None, got {argument!r}.')
    return self._kind()

  def flag_type(self) -> str:
    return self._kind.__name__


class _ConfigFile(flags.ArgumentParser):
  """Reads a config file, and makes the parts that flags set fields of.

  ml_collections wants them built by a flag before.

  Args:
    parser: of the file.
    argv: the arguments that will be parsed; None for those of the program.
  """

  def __init__(
    self, parser: flags.ArgumentParser, argv: Sequence[str] | None
  ) -> None:
    self._parser, self._argv = parser, argv
    self.syntactic_help = parser.syntactic_help

  def parse(self, argument: str) -> Any:
    config = self._parser.parse(argument)
    # Those that the file imports have become known by now.
    for kind in subclasses(Config):
      config_flags.register_flag_parser_for_type(kind, _OrNone(_Part(kind)))
    argv = sys.argv if self._argv is None else self._argv
    for flag in flags.FLAGS.read_flags_from_files(list(argv), force_gnu=False):
      if match := re.match(rf'--?(?:no)?{_CONFIG}\.([^=]+)', flag):
        path = match[1]
        parts = itertools.accumulate(path.split('.'), '{}.{}'.format)
        config_path.initialize_missing_parent_fields(config, path, list(parts))
    return config

  def flag_type(self) -> str:
    return self._parser.flag_type()


class _Steps(flags.ArgumentParser):
  """Reads `FIRST:END`."""

  syntactic_help = 'FIRST:END, without END'

  def parse(self, argument: str) -> range:
    return parse_steps(argument)

  def flag_type(self) -> str:
    return 'range of steps'


def define_profile_steps(
  flag_values: flags.FlagValues = flags.FLAGS,
) -> flags.FlagHolder[range | None]:
  """Defines `--profile_steps=FIRST:END`, a range of updates.

  Args:
    flag_values: where to define it.
  """
  return flags.DEFINE(
    _Steps(),
    'profile_steps',
    None,
    'Updates to profile into workdir/profile, such as 100:110 for 100 to 109.',
    flag_values=flag_values,
  )


def define_preempted_exit_code(
  flag_values: flags.FlagValues = flags.FLAGS,
) -> flags.FlagHolder[int]:
  """Defines `--preempted_exit_code`, for launchers that take 0 for the end.

  Args:
    flag_values: where to define it.
  """
  return flags.DEFINE_integer(
    'preempted_exit_code',
    0,
    'What a run that SIGTERM has stopped exits with, once its state is saved.',
    lower_bound=0,
    upper_bound=255,
    flag_values=flag_values,
  )


def define_config(
  flag_values: flags.FlagValues = flags.FLAGS,
  argv: Sequence[str] | None = None,
) -> flags.FlagHolder[TrainConfig]:
  """Defines `--config=FILE.py:VARIANT`, and a flag for each of its fields.

  Args:
    flag_values: where to define them.
    argv: the arguments that will be parsed; None for those of the program.
  """
  for field_type, parser in {
    int: flags.IntegerParser(),
    float: flags.FloatParser(),
    str: flags.ArgumentParser(),
    tuple: tuple_parser.TupleParser(),
  }.items():
    config_flags.register_flag_parser_for_type(field_type, _OrNone(parser))
  holder = config_flags.DEFINE_config_file(
    _CONFIG,
    None,
    'FILE.py or FILE.py:VARIANT, with a function get_config.',
    flag_values=flag_values,
    sys_argv=None if argv is None else list(argv),
  )
  flag = flag_values[_CONFIG]
  flag.parser = _ConfigFile(flag.parser, argv)
  flags.mark_flag_as_required(_CONFIG, flag_values)
  return holder


@contextlib.contextmanager
def errors_in_a_line() -> Iterator[None]:
  """Ends the program with a line, not a traceback, after an error of the user.

  Raises:
    SystemExit: instead of the error; it holds the line.
  """
  try:
    with os_errors():
      yield
  except (ValueError, TypeError, OSError, FloatingPointError) as error:
    logging.info('The error in full, for --verbosity=0:', exc_info=True)
    sys.exit(f'{type(error).__name__}: {error}')
  except KeyboardInterrupt:
    sys.exit('Stopped; the same command goes on from the last checkpoint.')


def parse_flags(
  argv: Sequence[str], flag_values: flags.FlagValues = flags.FLAGS
) -> list[str]:
  """Parses flags; the flags parser of `app.run`.

  Args:
    argv: the program and its arguments.
    flag_values: where the flags are defined.

  Returns:
    The program and the arguments that are no flags.

  Raises:
    SystemExit: a flag or the config is wrong; it holds one line that says what.
  """
  try:
    arguments = flag_values(argv)
    _check(flag_values[_CONFIG].value)
  except Exception as error:  # A config file may raise anything.
    sys.exit(_line(error))
  return arguments


def _check(config: Any) -> None:
  # Looking is what makes ml_collections say that it could not read the file.
  is_config = hasattr(config, 'validate') and isinstance(config, TrainConfig)
  if not is_config:
    raise TypeError(
      f'get_config() must return a TrainConfig, got {type(config).__name__}.'
    )


def _line(error: BaseException) -> str:
  """Says what is wrong, and on which line if it is in the config file."""
  if isinstance(error, AttributeError) and error.name == 'get_config':
    return (
      'AttributeError: a config file must define get_config(), got '
      f'{error.obj.__file__} without it.'
    )
  if isinstance(error, KeyError) and (message := _unknown_field(error)):
    return message
  place, cause = '', error
  while cause is not None:
    for frame, number in traceback.walk_tb(cause.__traceback__):
      if frame.f_globals.get('__name__') == _MODULE:
        place = f'{frame.f_code.co_filename}, line {number}: '
        error = cause
    cause = cause.__context__
  message = str(error.args[0]) if error.args else ''
  # ml_collections puts a traceback before some messages.
  lines = message.strip().splitlines() or ['']
  return f'{place}{type(error).__name__}: {lines[-1].strip()}'


def _unknown_field(error: KeyError) -> str | None:
  """Says which fields there are if a flag names one that does not exist.

  ml_collections names only the class, so the config in which it looked is
  taken from its frame.
  """
  for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
    seen = frame.f_locals
    config = seen.get('holder', seen.get('config'))
    if isinstance(config, Config) and 'field' in seen:
      return unknown_field(type(config), seen['field'])
  return None
