"""Token ids in, token ids out: sampling, the KV cache's content, and the loop over a runner. Nothing here knows text."""
