"""The way out: sending what was derived, instance by instance, with proof for each.

Nothing is imported here, so that `sender` can be used without the ledger.
"""
