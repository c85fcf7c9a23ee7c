"""Decoding with finite-state graphs: build one of a grammar or a language model, and let a CTC model follow it."""

from sigmel.decoding.graph.build import DecodingGraph, build
from sigmel.decoding.search.graph_decoder import GraphDecoder
from sigmel.decoding.search.hypothesis import Hypothesis
from sigmel.decoding.search.lattice import Lattice
from sigmel.decoding.search.search_width import Search

__all__ = ["DecodingGraph", "GraphDecoder", "Hypothesis", "Lattice", "Search", "build"]
