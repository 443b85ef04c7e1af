"""Where text comes from, the shards of token ids, and the labelled tasks."""
