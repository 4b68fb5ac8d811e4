"""Data for training: the procedural phantom and the readers that turn volumes into network input."""
