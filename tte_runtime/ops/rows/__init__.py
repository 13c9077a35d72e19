"""Rows of one token on a CPU: a decode step's layers, and the scores of next tokens, each as one compiled call.

`packing` lays weights out in the order in which they are read, `compiled` has the loops, `stack` calls them. Importing
this imports no Numba.
"""
