"""The `fimble` command line, the incremental pipeline and the contracts that the stages share."""
