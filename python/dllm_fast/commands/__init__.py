"""Parts of the command `dllm-fast`, one subcommand a module."""
