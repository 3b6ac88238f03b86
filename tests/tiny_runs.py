"""Jobs of seconds, one after the other, in a process or in many.

python tests/tiny_runs.py DATA_DIR JOB ... [--distributed ...]

A JOB is WORKDIR:VARIANT:NUM_STEPS, with a variant of tiny_job_config.py: it is
trained on to so many steps. WORKDIR:VARIANT:eval:REPORT_DIR evaluates it, and
WORKDIR:VARIANT:at_odds prints how processes that disagree are refused.
"""

import json
import pathlib

import jax
import tiny_job_config
from absl import app

from perceiver_jax.training import distributed, loop, processes
from perceiver_jax.xla_flags import set_cpu_flags

distributed.define_flags()


def _disagree(config, workdir):
  index = jax.process_index()
  seeds = config.copy()
  seeds.seed = index
  for case, where in (config, f'{workdir}/{index}'), (seeds, workdir):
    try:
      loop.train(case, where)
    except ValueError as error:
      print(error)


def main(argv):
  _, data_dir, *jobs = argv
  set_cpu_flags()
  with (
    distributed.errors_end_at_once(),
    distributed.join(heeds_sigterm=False) as pulse,
  ):
    for job in jobs:
      workdir, variant, what, *report_dir = job.split(':')
      config = tiny_job_config.get_config(variant)
      config.data.data_dir = data_dir
      if what == 'eval':
        metrics = loop.evaluate(config, workdir, *report_dir, pulse=pulse)
        if processes.is_primary():
          path = pathlib.Path(*report_dir) / 'metrics.json'
          path.write_text(json.dumps(metrics))
      elif what == 'at_odds':
        _disagree(config, workdir)
      else:
        config.num_steps = int(what)
        loop.train(config, workdir, pulse=pulse)


if __name__ == '__main__':
  app.run(main)
