"""ESPnet's `asr_inference` by a graph: `sigmel espnet asr_inference_graph --graph HLG.npz ...`.

The options and output files are ESPnet's own. Only the CTC branch of a model is used, so options that weigh the scores
of ESPnet's beam search have no effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from espnet2.bin import asr_inference
from espnet2.bin.asr_inference import Hypothesis  # versions of ESPnet define this class in different modules

from sigmel.decoding.search.graph_decoder import OPTIONS, GraphDecoder, add_decoding_options, decoding_options
from sigmel.errors import SigmelError

Result = tuple[str, list[str], list[int], Hypothesis]


def by_graph(decoder: GraphDecoder) -> type[asr_inference.Speech2Text]:
    """A class like ESPnet's recogniser that decodes by a graph.

    Args:
        decoder: decodes with the graph.
    """

    class GraphSpeech2Text(asr_inference.Speech2Text):
        """Raises a SigmelError for a model without CTC, or with other tokens than the graph's."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            if getattr(self.asr_model, "ctc", None) is None:
                raise SigmelError(f"{type(self.asr_model).__name__} has no CTC, whose tokens a graph reads")
            decoder.graph.check_tokens(self.asr_model.token_list)

        def _decode_single_sample(self, enc: torch.Tensor) -> list[Result]:
            log_probs = self.asr_model.ctc.log_softmax(enc[None])
            lengths = torch.tensor([log_probs.shape[1]])
            if self.nbest == 1:
                found = decoder.decode(log_probs, lengths)
            else:
                (found,) = decoder.nbest(log_probs, lengths, self.nbest)
            results = []
            for path in found:
                names = [token.name for token in path.tokens]
                text = self.tokenizer.tokens2text(names) if decoder.graph.writes_tokens else path.text
                numbers = [int(path.alignment[token.start]) for token in path.tokens]
                results.append((text, names, numbers, Hypothesis(torch.tensor(numbers), path.score)))
            return results

    return GraphSpeech2Text


def main(cmd: Sequence[str] | None = None) -> None:
    """Decode from the command line."""
    parser = asr_inference.get_parser()
    add_decoding_options(parser.add_argument_group("The graph"), required=True)
    arguments = parser.parse_args(cmd)
    decoder = GraphDecoder(arguments.graph, **decoding_options(arguments))
    theirs = {name: value for name, value in vars(arguments).items() if name not in ("config", *OPTIONS)}
    plain = asr_inference.Speech2Text
    asr_inference.Speech2Text = by_graph(decoder)  # the name by which ESPnet's program builds its recogniser
    try:
        asr_inference.inference(**theirs)
    finally:
        asr_inference.Speech2Text = plain


if __name__ == "__main__":
    main()
