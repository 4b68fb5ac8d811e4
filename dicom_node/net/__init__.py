"""The network floor: presentation contexts, the listening side, the verbs we call on peers.

Nothing is imported here: the receiver takes `contexts`, `listener`, `part10` and `quiet`, and must not pay for the
rest.
"""
