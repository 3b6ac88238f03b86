"""`python -m perceiver_jax.data.audioset`: prepares AudioSet for TFDS.

docs/audioset.md says what it needs.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence

from etils import epath

from perceiver_jax.buckets import os_errors
from perceiver_jax.data.audioset import report
from perceiver_jax.data.audioset.builder import Audioset, Preparation
from perceiver_jax.data.audioset.prepare import merge, prepare


def main(argv: Sequence[str] | None = None) -> None:
  """Runs one command.

  Raises:
    SystemExit: something is wrong; it holds one line that says what.
  """
  arguments = _parser().parse_args(argv)
  try:
    with os_errors():
      ready = epath.Path(arguments.run(arguments).data_path)
      counts = report.read_report(ready)
  except (ValueError, TypeError, OSError, ImportError) as error:
    sys.exit(f'{type(error).__name__}: {error}')
  print(report.summary(counts))
  names = f'{report.REPORT_FILE}, {report.UNUSUAL_FILE}'
  print(f'{ready}: the prepared data, with {names}')


def _prepare(arguments: argparse.Namespace) -> Audioset:
  preparation = Preparation(
    num_threads=arguments.num_threads,
    segments_per_shard=arguments.segments_per_shard,
    part=arguments.part,
  )
  try:
    return prepare(
      arguments.manual_dir,
      arguments.data_dir,
      preparation,
      arguments.beam_options,
    )
  except KeyboardInterrupt:
    sys.exit('Interrupted; the same command goes on where this one stopped.')


def _merge(arguments: argparse.Namespace) -> Audioset:
  return merge(arguments.parts, arguments.data_dir)


def _part(text: str) -> tuple[int, int]:
  try:
    number, count = map(int, text.split('/'))
  except ValueError as error:
    raise argparse.ArgumentTypeError(
      f'must be I/N, such as 1/2, got {text!r}.'
    ) from error
  return number, count


def _flags(text: str) -> list[str]:
  try:
    return shlex.split(text)
  except ValueError as error:
    raise argparse.ArgumentTypeError(
      f'must be flags as a shell takes them, got {text!r}: {error}.'
    ) from error


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m perceiver_jax.data.audioset',
    description='Prepares AudioSet for TFDS; see docs/audioset.md.',
    allow_abbrev=False,
  )
  commands = parser.add_subparsers(required=True, metavar='COMMAND')
  text = 'prepare lists and clips; the same command again goes on'
  command = commands.add_parser('prepare', help=text, description=text)
  command.set_defaults(run=_prepare)
  command.add_argument(
    '--manual_dir', required=True, help='with the lists, and clips/'
  )
  command.add_argument(
    '--num_threads', type=int, help='clips to read at once; all cores'
  )
  command.add_argument(
    '--segments_per_shard',
    type=int,
    default=Preparation.segments_per_shard,
    help='of how many segments to make a file',
  )
  command.add_argument(
    '--part',
    type=_part,
    metavar='I/N',
    default=Preparation.part,
    help='only every N-th segment from the I-th on, to be merged later',
  )
  command.add_argument(
    '--beam_options',
    type=_flags,
    help="to do it by Apache Beam: its flags, such as '--runner=DirectRunner'",
  )
  _add_data_dir(command)
  text = 'make one data set of prepared parts'
  command = commands.add_parser('merge', help=text, description=text)
  command.set_defaults(run=_merge)
  command.add_argument('parts', nargs='+', help='data_dir of each part')
  _add_data_dir(command)
  return parser


def _add_data_dir(command: argparse.ArgumentParser) -> None:
  command.add_argument(
    '--data_dir', required=True, help='the TFDS directory to write to'
  )


if __name__ == '__main__':
  main()
