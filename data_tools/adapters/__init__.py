"""One small file a dataset: from its folder as published to records of an index, in place."""
