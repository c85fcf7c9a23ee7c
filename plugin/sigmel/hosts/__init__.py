"""Adapters to the toolkits that sigmel plugs into: the only code that imports them."""
