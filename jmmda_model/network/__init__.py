"""Generator and discriminator of JMMDA-GAN (our reconstruction) and the blocks they are built of.

Import the modules directly: :mod:`~jmmda_model.network.settings` is free of torch, so that a card of a
bundle can be read by a process that never loads it; all others import torch.
"""
