"""Hypothesis strategies, oracles and campaigns that stand on the public face."""
