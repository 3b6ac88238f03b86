"""Jobs of seconds for `train.py`: --config=tests/tiny_job_config.py:VARIANT.

The data set lies in the default TFDS directory.
"""

import tiny_job

from perceiver_jax.modalities.image import ConvEmbedding


def get_config(variant: str = ''):
  match variant:
    case '':
      return tiny_job.tiny_config(None)
    case 'batch_norm':
      stem = ConvEmbedding(channels=4, sync_batch_norm=True)
      return tiny_job.tiny_config(None, stem)
    case 'resumable':
      return tiny_job.resumable_config(None)
  raise ValueError(
    f"the variant must be '', batch_norm or resumable, got {variant!r}."
  )
