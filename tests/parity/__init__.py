"""The published loops, restated in plain NumPy in `loops/`, and tests that our sampler writes the same tokens.

The restatements follow the publications, not our code, and read as documentation of them. Each says where it deviates and
why. Three deviations are common to all: the mask is never proposed (a published loop that proposes it stalls or returns it),
ties go to the lower position (`torch.topk` leaves them open), and probabilities are taken in float64 unless a dtype is named.
"""
