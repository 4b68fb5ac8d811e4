"""Synthesis: the worker process (volume, mask, JMMDA-GAN, pixels on the CT grid) and the service's handle to it.

Only `pipeline` and `worker` import torch; `client` does not, so the service stays small.
"""
