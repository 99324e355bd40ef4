"""`python -m dllm_fast` is the command `dllm-fast`."""

import sys

from dllm_fast.cli import main

sys.exit(main())
