"""Networks that ship inside the package: one checkpoint and one model card each."""
