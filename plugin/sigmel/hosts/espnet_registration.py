"""Alias of `sigmel.hosts.registration.espnet`, which files on users' disks call by this name."""

from sigmel.hosts.registration.espnet import register as register
