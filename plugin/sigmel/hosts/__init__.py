"""Adapters to the toolkits that sigmel plugs into: beside recipes, the only code that imports them."""

import sys

from sigmel.hosts.registration import espnet, nemo

# Files on users' disks, which an older sigmel wrote, call these two modules by their former names.
sys.modules |= {f"{__name__}.espnet_registration": espnet, f"{__name__}.nemo_registration": nemo}
