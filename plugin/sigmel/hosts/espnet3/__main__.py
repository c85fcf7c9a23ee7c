"""`python -m sigmel.hosts.espnet3`, an alias of `sigmel espnet3`: runs the stages as a recipe's `run.py` does."""

from espnet3.systems.launch import launch

from sigmel.hosts.espnet3 import ASRSystem

if __name__ == "__main__":  # workers import this module
    launch(ASRSystem, conf_package="sigmel.hosts.espnet3")
