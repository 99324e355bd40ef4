"""What decides which token is written where and when: the settings, their presets, and what others call them."""
