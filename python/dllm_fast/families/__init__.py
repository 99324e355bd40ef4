"""What is known of families of models: what tells them, how they are laid out, what their files do not say."""
