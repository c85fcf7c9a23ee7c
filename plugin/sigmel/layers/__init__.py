"""Building blocks that compose ops: attention, positions, convolution, subsampling, routing, experts."""
