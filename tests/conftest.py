"""Settings of the test run: HYPOTHESIS_PROFILE=thorough searches much longer than the default, `fast`.

HYPOTHESIS_EXAMPLES is the number of cases that `thorough` draws for a property, 500 unless it says otherwise.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_SLOW_IS_FINE = (HealthCheck.too_slow, HealthCheck.data_too_large)

# `fast` draws the same examples every time, so that a change is what turns it red; `thorough` searches.
settings.register_profile("fast", max_examples=25, deadline=None, suppress_health_check=_SLOW_IS_FINE, derandomize=True)
# `few` is for versions of other libraries, which decide nothing that is drawn here.
settings.register_profile("few", max_examples=8, deadline=None, suppress_health_check=_SLOW_IS_FINE, derandomize=True)
_examples = int(os.environ.get("HYPOTHESIS_EXAMPLES", "500"))
settings.register_profile("thorough", max_examples=_examples, deadline=None, suppress_health_check=_SLOW_IS_FINE)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))
