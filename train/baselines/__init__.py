"""Comparison methods, one file each, on the trainer, the data and the evaluator that JMMDA-GAN uses.

Networks are written from layer tables. Where a public implementation differs from its article, both readings
exist, under the names ``*_repo`` and ``*_paper``; which is which stands in each module.
"""
