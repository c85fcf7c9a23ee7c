"""`python -m sigmel.hosts.espnet3`: what a recipe's `run.py` would be."""

from espnet3.systems.launch import launch

from sigmel.hosts.espnet3 import ASRSystem

if __name__ == "__main__":  # workers import this module too
    launch(ASRSystem, conf_package="sigmel.hosts.espnet3")
