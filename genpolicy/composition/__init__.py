"""Compositions: several denoisers as one, with the density they are meant to sample."""
