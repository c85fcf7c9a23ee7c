"""Adapters to the toolkits that sigmel plugs into: beside recipes, the only code that imports them."""
