"""The rows of a step on a CPU, compiled: all layers, several steps, a tower's block, one product, and scores of tokens.

`packing` lays weights out in the order in which they are read; `tiles` multiplies with them, `codes` with those of 8
bits, and `packed` is either. `compiled`, `walking`, `blocks` and `scoring` are what is called; `stack`, `tower`,
`product` and `output` call it, with tensors. Importing it imports no Numba.
"""
