"""Model configurations, installed with the package so that Hydra finds them (pkg://sigmel.conf.nemo)."""
