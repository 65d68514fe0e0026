"""What a run saves: checkpoints, averaged weights, exported models and their cards."""
