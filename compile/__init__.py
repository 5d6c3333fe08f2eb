"""From a checkpoint to a bundle: quantized weights in MLC's format and a library compiled by TVM."""
