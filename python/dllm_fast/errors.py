"""Every error that dllm_fast raises itself. A model's own exception is passed on as it is."""


class DllmFastError(Exception):
    """Base of every error of dllm_fast."""


class InvalidValueError(DllmFastError, ValueError):
    """A value out of its range, or values that do not fit together. The text states the rule, the value and a remedy."""


class InvalidTypeError(DllmFastError, TypeError):
    """A value of a type that is not understood."""


class CheckpointError(DllmFastError, ValueError):
    """A model folder that cannot be used: the text names the file and the key."""


class KernelError(DllmFastError, RuntimeError):
    """A CUDA kernel that cannot be compiled or used here. The text says why and what to install."""


class UnknownTextWarning(UserWarning):
    """Text of a prompt that the tokenizer does not know. The warning shows some of it, and how many tokens it became."""
