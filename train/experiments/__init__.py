"""Experiments over several trained methods: paired statistics, and the tables and figures that rest on them."""
