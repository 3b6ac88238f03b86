"""Writes shards on many machines, by Apache Beam."""

import argparse
import functools
import pickle
from collections.abc import Sequence
from typing import Any, NoReturn

from etils import epath

from perceiver_jax.data.audioset import files
from perceiver_jax.data.audioset.shards import Shard, write_shard

_TASK_SUFFIX = '.task'


def pipeline_options(flags: Sequence[str]) -> Any:
  """Returns the options of a pipeline by its flags.

  Raises:
    ImportError: the extra `[beam]` is not installed.
    ValueError: Beam does not know one of the flags, which it would ignore, or
      not its value.
  """
  try:
    from apache_beam.options import pipeline_options
  except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
      f"Apache Beam needs the extra [beam], pip install '.[beam]': {error}"
    ) from error
  options = pipeline_options.PipelineOptions(list(flags))

  def fail(message: str) -> NoReturn:
    raise ValueError(
      f'beam_options must be flags of Beam, got {list(flags)}: {message}.'
    )

  def check(parser: argparse.ArgumentParser) -> None:
    parser.error = fail  # It would print the usage of all flags.
    _, unknown = parser.parse_known_args(flags)
    if unknown:
      raise ValueError(f'beam_options must be flags of Beam, got {unknown}.')

  # A view knows its own flags alone; this parser is the one of all.
  options.get_all_options(add_extra_args_fn=check)
  return options


def write_shards(
  shards: list[Shard], num_threads: int, runner: Any, options: Any
) -> None:
  """Writes shards by a Beam pipeline and waits for its end.

  Args:
    shards: what to do; every worker must be able to read the clips and write
      the files by these paths.
    num_threads: how many clips a worker reads at once.
    runner: of Beam, or its name; None for what the options say.
    options: of the pipeline, None for none.
  """
  import apache_beam as beam

  if options is None:  # Else Beam takes those of our command line for its own.
    options = pipeline_options([])
  # A pipeline must be small, and the segments of all shards are not.
  paths = [_write_task(shard) for shard in shards]
  write = functools.partial(_run_task, num_threads=num_threads)
  with beam.Pipeline(runner=runner, options=options) as pipeline:
    tasks = pipeline | 'tasks' >> beam.Create(paths)
    _ = tasks | 'spread' >> beam.Reshuffle() | 'write' >> beam.Map(write)


def _write_task(shard: Shard) -> str:
  path = shard.path + _TASK_SUFFIX
  with files.whole_file(path) as unfinished:
    epath.Path(unfinished).write_bytes(pickle.dumps(shard))
  return path


def _run_task(path: str, num_threads: int) -> None:
  shard = pickle.loads(epath.Path(path).read_bytes())
  write_shard(shard, num_threads, lambda: None)
