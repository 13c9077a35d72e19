"""The rows of a step on a CPU, compiled: all layers, several steps, a tower's block, one product, and scores of tokens.

`packing` lays weights out in the order in which they are read and `tiles` multiplies with them. `compiled`, `walking`,
`blocks` and `scoring` are what is called; `stack`, `tower`, `product` and `output` call it, with tensors. Importing it
imports no Numba.
"""
