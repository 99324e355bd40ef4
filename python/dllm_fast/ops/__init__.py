"""Operations with a CUDA kernel and a meaning in plain torch, one a module, behind one name of `torch.ops.dllm_fast`."""
