"""How long kernels and a step should take on a card: a model of first order, before anybody has run them.

A kernel takes what it takes to start, and then the longest of what memory, the issue of instructions, the port of shared
memory and its own chain of dependent steps allow. Instructions and registers are those of the compiled code
(results/compiled.json), grids those of `launches`. The constants below are judgements; each is replaced by what a card has
shown once one has.
"""
