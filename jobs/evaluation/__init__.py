"""Work on models that were trained: where they are found, and pictures of what they do."""
