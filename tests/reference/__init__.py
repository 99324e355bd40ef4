"""The specification in plain NumPy, written to be read.

Each module restates one part of the rules of ARCHITECTURE.md without any cleverness, one row at a time, and the tests
compare the library with it by equality. Read them in this order:

- `arithmetic`: the few operations whose bits are fixed: fused multiply-add, exponentials, logarithm, tile sums.
- `philox`: random numbers as a function of (seed, request, position, step, draw).
- `statistics`: what is known about a row of logits; and the same from a float64 softmax, to judge the accuracy.
- `draw`: temperature, top-k, top-p, min-p, and the token that a uniform number stands for.
- `schedule`: how many masks a step commits.
- `select`: the order of positions and the cut that ends the prefix which is committed.
- `nearby`: cuts that look at neighbours, how much around a position is known, the gap that stops a block.
- `memory`: what is remembered from one forward to the next.
- `sampler`: one row from its masks to its answer.
"""
