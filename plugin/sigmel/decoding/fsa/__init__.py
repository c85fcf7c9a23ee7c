"""Decoding with finite-state graphs: build one of a grammar or a language model, and let a CTC model follow it."""

from sigmel.decoding.fsa.build import DecodingGraph, build
from sigmel.decoding.fsa.decoder import GraphDecoder
from sigmel.decoding.fsa.hypothesis import Hypothesis
from sigmel.decoding.fsa.lattice import Lattice
from sigmel.decoding.fsa.search import Search

__all__ = ["DecodingGraph", "GraphDecoder", "Hypothesis", "Lattice", "Search", "build"]
