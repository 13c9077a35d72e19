"""The rows of a step on a CPU, compiled: all layers, one product, and the scores of next tokens, each as one call.

`packing` lays weights out in the order in which they are read and `tiles` multiplies with them; `compiled` and
`scoring` are what is called, `stack` and `product` call it, with tensors. Importing this imports no Numba.
"""
