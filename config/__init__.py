"""Configuration that ships: ``node.toml`` for the node, ``train/*.toml`` for training. Data files only, no code."""
