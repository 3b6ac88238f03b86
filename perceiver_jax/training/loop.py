"""The order of events in a job; what happens at each is computed elsewhere."""

import contextlib
import functools
import os
from collections.abc import Callable, Mapping

import jax
from absl import logging
from etils import epath

from perceiver_jax.buckets import replace_text
from perceiver_jax.data.base import train_batches
from perceiver_jax.data.prefetch import Prefetcher
from perceiver_jax.training import parallel
from perceiver_jax.training.alarm import Alarm
from perceiver_jax.training.checkpoint import Checkpointer, check_writable
from perceiver_jax.training.compatibility import check_config, check_run
from perceiver_jax.training.config import TrainConfig
from perceiver_jax.training.environment import append_environment
from perceiver_jax.training.evaluation import make_evaluator
from perceiver_jax.training.first_nan import NanCheck, make_nan_check
from perceiver_jax.training.initial_weights import load_weights
from perceiver_jax.training.job import (
  Job,
  abstract_state,
  device_batches,
  first_state,
  make_job,
  this_process,
  train_step,
)
from perceiver_jax.training.processes import check_shared, is_primary
from perceiver_jax.training.pulse import Pulse
from perceiver_jax.training.recorder import Recorder
from perceiver_jax.training.run_log import RunLog
from perceiver_jax.training.state import TrainState, evaluation_state

Workdir = str | os.PathLike[str]

CONFIG_FILE = 'config.json'


def train(
  config: TrainConfig,
  workdir: Workdir,
  profile_steps: range | None = None,
  *,
  debug_nans: bool = False,
  pulse: Pulse | None = None,
) -> dict[str, float]:
  """Runs a job to its end, from its last checkpoint if there is one.

  Args:
    config: the job; frozen by this.
    workdir: directory of checkpoints, metrics and pictures.
    profile_steps: updates, from 1, of which a profile is written; None: none.
    debug_nans: whether the first update that is not finite ends the run and is
      looked into; the devices wait for the host after every update then.
    pulse: is told that the run goes on, and may tell it to stop; entered.

  Returns:
    The last step, and the metrics of the evaluation after it; the step alone
    if the run was told to stop: its state is saved then.

  Raises:
    ValueError: the config is inconsistent, `workdir` belongs to another model,
      or the run ends before `profile_steps`.
    OSError: `workdir` cannot be written to.
    FloatingPointError: too many updates in a row were not finite; the state
      before them is saved. With `debug_nans`, one was not.
  """
  with contextlib.ExitStack() as stack:
    # Before the data, which the first use may have to prepare.
    check_writable(workdir)
    check_shared(epath.Path(workdir))
    job = make_job(config)
    log = stack.enter_context(RunLog(workdir, is_primary=is_primary()))
    checkpointer = stack.enter_context(
      config.checkpoint.make(workdir, config.to_json())
    )
    state = _restore(job, checkpointer, workdir)
    if state is None and config.initial_weights is not None:
      config.initial_weights.check_path()
    resume_step = None if state is None else int(state.step)
    recorder = stack.enter_context(
      Recorder(
        job,
        workdir,
        log,
        resume_step=resume_step,
        must_evaluate=_must_evaluate(job, checkpointer, resume_step or 0),
        profile_steps=profile_steps,
        is_primary=is_primary(),
      )
    )
    if is_primary():
      replace_text(epath.Path(workdir) / CONFIG_FILE, config.to_json())
      log.note(append_environment(workdir, resume_step))
    state = _first_state(job) if state is None else state
    nan_check = make_nan_check(job) if debug_nans else None
    metrics = _run(
      job, state, checkpointer, recorder, nan_check, pulse or Pulse()
    )
    if is_cut_short(metrics):
      logging.warning(
        'Told to stop after step %d of %d; the same command goes on there.',
        metrics['step'],
        job.num_steps,
      )
  return metrics


def evaluate(
  config: TrainConfig,
  source: str | os.PathLike[str],
  report_dir: Workdir | None = None,
  *,
  pulse: Pulse | None = None,
) -> dict[str, float]:
  """Evaluates the newest checkpoint of a run, or weights from a file.

  Args:
    config: the job; frozen by this.
    source: the directory of a run, whose checkpoints stay as they are; a file
      of `perceiver_jax.save_pretrained`; or a pickle that DeepMind published.
    report_dir: where the tables and pictures of the task go, also one in
      `source`; None: nowhere.
    pulse: is told that the evaluation goes on; entered.

  Returns:
    The step of the checkpoint, 0 for a file, and its metrics.

  Raises:
    ValueError: the config is inconsistent, or `source` has no checkpoint or
      one of another model.
    OSError: `report_dir` cannot be written to.
  """
  job = make_job(config, is_training=False)
  if epath.Path(source).is_file():
    state = _state_of_file(job, source)
  else:
    with config.checkpoint.make(
      source, config.to_json(), read_only=True
    ) as checkpointer:
      state = _restore(job, checkpointer, source)
  if state is None:
    raise ValueError(
      'what is evaluated must be a workdir with a checkpoint or a file of '
      f'weights, got {source}.'
    )
  report = None
  if report_dir is not None:
    check_writable(report_dir)  # Before the metrics, which would be lost.
    report = config.task.make_report(config.data.class_names)
  note = pulse and pulse.beat
  metrics = make_evaluator(job)(state, report, note)
  if report is not None and is_primary():
    report.save(report_dir)
  return {'step': int(state.step)} | metrics


def _state_of_file(job: Job, path: str | os.PathLike[str]) -> TrainState:
  """Returns a state that can be evaluated, with weights from a file."""
  model = job.config.model
  weights = load_weights(path, model)
  check_config(weights.config.to_dict(), model.to_dict(), workdir=str(path))
  state = evaluation_state(weights.params, weights.state)
  return jax.device_put(state, parallel.replicated())


def _run(
  job: Job,
  state: TrainState,
  checkpointer: Checkpointer,
  recorder: Recorder,
  nan_check: NanCheck | None,
  pulse: Pulse,
) -> dict[str, float]:
  """Evaluates the state if it must, and trains unless the run is finished."""
  evaluator = functools.partial(make_evaluator(job), must_stop=pulse.beat)
  step = int(state.step)
  is_finished = step >= job.num_steps
  metrics = {}
  if _must_evaluate(job, checkpointer, step):
    metrics = _evaluate(evaluator, state, step, recorder)
    if metrics is not None:
      recorder.flush()
      checkpointer.add_metrics(step, metrics)
  elif is_finished:
    metrics = evaluator(state)
  if metrics is None or is_finished:
    return {'step': step} | (metrics or {})
  return _update(
    job, state, checkpointer, recorder, nan_check, pulse, evaluator
  )


def _update(
  job: Job,
  state: TrainState,
  checkpointer: Checkpointer,
  recorder: Recorder,
  nan_check: NanCheck | None,
  pulse: Pulse,
  evaluator: Callable[..., dict[str, float] | None],
) -> dict[str, float]:
  """Trains, logs, evaluates and saves, each at its steps."""
  config, start = job.config, int(state.step)
  update = parallel.parallel_train_step(train_step(job))
  alarm = Alarm(config, jax.device_get(state.watch))
  previous = None
  with _batches_from(job, start) as on_devices:
    recorder.watch(on_devices)
    for step in range(start + 1, job.num_steps + 1):
      with recorder.step(step):
        batch = next(on_devices)
        recorder.look(step, state, batch)
        state, metrics = update(state, batch)
        # At most two steps are under way, each of which holds a batch.
        jax.block_until_ready(metrics if recorder.waits(step) else previous)
      reason = previous and alarm.follow(step - 1, previous)
      if nan_check and (found := nan_check(state, batch, metrics)):
        raise FloatingPointError(f'{found} {alarm.batch_of(step)}')
      previous = metrics
      is_last = step == job.num_steps
      must_stop, eval_metrics = pulse.beat(), None
      if step % config.log_every_steps == 0 or is_last:
        metrics, watch = jax.device_get((metrics, state.watch))
        recorder.log(step, metrics)
        alarm.report(watch)
        reason, previous = reason or alarm.follow(step, metrics), None
      else:
        recorder.progress(step)
      if reason:
        recorder.flush()
        checkpointer.save(step, parallel.as_global(state))
        raise FloatingPointError(reason)
      if _is_due(job, step) and not must_stop:
        eval_metrics = _evaluate(evaluator, state, step, recorder)
        must_stop = eval_metrics is None
      if step % config.checkpoint.every_steps == 0 or is_last or must_stop:
        recorder.flush()
        checkpointer.save(step, parallel.as_global(state), eval_metrics)
      if must_stop:
        break
  return {'step': step} | (eval_metrics or {})


def _batches_from(job: Job, step: int) -> Prefetcher:
  """Returns the batches after so many updates, on the devices."""
  config = job.config
  batches = train_batches(
    config.data, seed=config.seed, start_step=step, shard=this_process()
  )
  return device_batches(job, batches)


def _evaluate(
  evaluator: Callable[..., dict[str, float] | None],
  state: TrainState,
  step: int,
  recorder: Recorder,
) -> dict[str, float] | None:
  """Evaluates a state for the record; None if told to stop in between."""
  report = recorder.new_report(step)
  metrics = evaluator(state, report)
  if metrics is not None:
    recorder.evaluated(step, metrics, report)
  return metrics


def is_cut_short(metrics: Mapping[str, float]) -> bool:
  """Returns whether `train` was told to stop, by what it returned."""
  return metrics.keys() == {'step'}


def _is_due(job: Job, step: int) -> bool:
  """Returns whether the state after so many updates is evaluated."""
  return step > 0 and (
    step % job.config.evaluate_every_steps == 0 or step == job.num_steps
  )


def _must_evaluate(job: Job, checkpointer: Checkpointer, step: int) -> bool:
  """Returns whether a run was told to stop before it evaluated its state.

  Args:
    job: what is run.
    checkpointer: of its directory.
    step: of the checkpoint that it goes on from, 0 if it starts anew.
  """
  return _is_due(job, step) and not checkpointer.is_evaluated(step)


def _first_state(job: Job) -> TrainState:
  """Returns the state before the first update, with weights if there are."""
  state, weights = first_state(job), job.config.initial_weights
  if weights is None:
    return state
  state = weights.load_into(parallel.as_global(state), job.config.model)
  return parallel.as_local(state)


def _restore(
  job: Job, checkpointer: Checkpointer, workdir: Workdir
) -> TrainState | None:
  """Returns the newest state in `workdir`, None if there is none."""
  saved_json = checkpointer.saved_config_json()
  if saved_json is None:
    return None
  check_run(saved_json, job.config.to_dict(), workdir=str(workdir))
  return parallel.as_local(checkpointer.restore(abstract_state(job)))
