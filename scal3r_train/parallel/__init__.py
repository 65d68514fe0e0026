"""Everything that knows about more than one process; the only place that imports torch.distributed."""
