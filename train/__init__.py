"""Training side of jmmda-node: synthetic patients, data sets, objectives, trainer and evaluation.

Nothing in here is needed to serve; the node's stages never import it.
"""
