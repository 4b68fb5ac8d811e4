"""The two stages that work on jobs: synthesis by the worker process, and derivation in a thread of the service.

Each is a loop over the ledger: take the oldest job that is due, do it, write down what became of it. They meet in the
job's folder, so either may be killed at any point; what is half done is begun again.
"""
