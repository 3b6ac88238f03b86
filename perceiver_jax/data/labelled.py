"""TFDS data sets whose examples have one label each."""

import dataclasses

import tensorflow_datasets as tfds

from perceiver_jax.data import records
from perceiver_jax.data.base import ArraySpec, DataConfig


class LabelledData(DataConfig):
  """Examples with labels; subclasses say of what, and what becomes of them.

  Examples have `'label': int32 []` beside their other arrays.
  """

  def builder(self) -> tfds.core.DatasetBuilder:
    """Returns the TFDS builder of the data set, prepared."""
    raise TypeError(f'{type(self).__name__} must define builder.')

  def make_source(self, split: str) -> records.Records:
    return records.Records(self.builder(), split)

  def element_spec(self, *, is_training: bool = True) -> dict[str, ArraySpec]:
    spec = super().element_spec(is_training=is_training)
    label = dataclasses.replace(spec['label'], num_values=self.num_classes)
    return spec | {'label': label}

  @property
  def num_classes(self) -> int:
    """How many labels the data set has."""
    return self.builder().info.features['label'].num_classes

  @property
  def class_names(self) -> tuple[str, ...]:
    """The name of each label, in order."""
    return tuple(self.builder().info.features['label'].names)
