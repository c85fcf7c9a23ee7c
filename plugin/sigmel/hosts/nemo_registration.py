"""Alias of `sigmel.hosts.registration.nemo`, which the metadata of an older installation calls by this name."""

from sigmel.hosts.registration.nemo import callbacks_factory as callbacks_factory
